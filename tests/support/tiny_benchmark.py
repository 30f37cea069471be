"""Settings with which a benchmark takes milliseconds."""

from typing import Any

TINY: dict[str, Any] = {
    "network": {"name": "smallnet", "image_size": 32},
    "extract": {"resize": 40, "batch_size": 8, "precision": "float32"},
    "cluster": {"k": 4, "pca_dim": 6},
    "train": {"batch_size": 8, "precision": "float32"},
    "dataset": {"shorter_side": 40},
}
"""Overrides for configs/imagenet-alexnet.yaml."""
