"""WHEN: the Prefect flows, one file each, that order, repeat, cache and place the stages."""
