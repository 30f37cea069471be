"""Small recipes that are valid."""

from pathlib import Path

PLAIN = """
dataset: {source: pictures}
network: {name: smallnet, image_size: 16}
extract: {resize: 20}
cluster: {k: 5, pca_dim: 4}
train: {lr: 0.1}
"""
"""Only what has no default. The folder `pictures` does not have to exist."""

RECIPE = {
    "epochs": "3",
    "dataset": "{source: SOURCE, shorter_side: 16, channels: 1, encoding: raw}",
    "network": "{name: smallnet, image_size: 16}",
    "extract": "{resize: 16}",
    "cluster": "{k: 8, pca_dim: 8}",
    "train": "{batch_size: 32}",
}
"""The sections of a recipe for the 240 pictures of `tiny_images`; a run takes two seconds."""

SMALL_RECIPE = RECIPE | {
    "epochs": "1",
    "cluster": "{k: 4, pca_dim: 4}",
    "train": "{batch_size: 16}",
    "compute": "{device: cpu}",
}
"""The sections of a recipe of one epoch for 40 pictures."""

EMBEDDINGS = {
    "network": "{name: smallnet, image_size: 16, projection: {hidden: 16, dim: 12}}",
    "extract": "{resize: 16, layer: projection}",
    "cluster": "{algorithm: spherical, k: [8, 6], pca_dim: none, whiten: false}",
    "keep": "{checkpoints: 1, features: 1}",
    "compute": "{device: cpu}",
}
"""Sections to replace, so that two clusterings of embeddings can be the prototypes."""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def write_shortest(path: str) -> Path:
    """Write a file with one key, whose folder need not exist; return its path as given."""
    Path(path).parent.mkdir(exist_ok=True)
    return write(Path(path), "epochs: 1")


def write_recipe(path: Path, source: Path, **replaced: str) -> Path:
    """Write `RECIPE` for a source; `cluster="{k: 5}"` replaces or adds that section."""
    sections = RECIPE | replaced
    lines = [f"{key}: {value}" for key, value in sections.items()]
    return write(path, "\n".join(lines).replace("SOURCE", f"'{source}'"))


def write_small_recipe(path: Path, source: Path, **replaced: str) -> Path:
    """Write `SMALL_RECIPE` for a source, with sections replaced or added as in `write_recipe`."""
    return write_recipe(path, source, **(SMALL_RECIPE | replaced))
