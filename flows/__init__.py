"""When stages run: Prefect flows, one file each, that order, repeat and cache the stages."""
