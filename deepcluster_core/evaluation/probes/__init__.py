"""Linear and multi-layer classifiers on frozen features."""
