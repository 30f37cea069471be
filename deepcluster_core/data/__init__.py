"""From files to batches: sources, decoding, views, loading."""
