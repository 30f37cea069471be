"""Evaluations: what features are worth and what clusters hold. Stages like the others, one each."""
