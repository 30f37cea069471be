"""Benchmarks of speed, size and quality. Run one with `python -m benchmarks.<name>`."""

import os

ENVIRONMENT = dict(os.environ)
"""The user's environment, before any import adds our settings to it. Every side of a benchmark
starts from it, so that the settings of one side cannot help another."""
