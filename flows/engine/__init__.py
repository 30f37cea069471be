"""How a job becomes a Prefect task: checked, locked, and skipped if its artifact exists."""
