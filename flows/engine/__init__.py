"""How one job becomes a Prefect task: checked, locked, skipped when its artifact is there."""
