"""Probes, neighbours and pictures: what the evaluations compute."""
