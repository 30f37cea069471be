"""Turn image files into batches: sources, decoding, views and loading."""
