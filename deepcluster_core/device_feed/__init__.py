"""Feeding a device: it gets packed bytes as they lie on disk, and crops and resizes them itself."""
