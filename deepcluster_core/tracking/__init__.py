"""Trackers: programs that collect the metrics, pictures and settings of many runs."""
