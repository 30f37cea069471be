"""The networks that the pipeline can train."""
