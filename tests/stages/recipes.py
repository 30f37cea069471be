"""A small recipe that is right."""

from pathlib import Path

PLAIN = """
dataset: {source: pictures}
network: {name: smallnet, image_size: 16}
extract: {resize: 20}
cluster: {k: 5, pca_dim: 4}
train: {lr: 0.1}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
