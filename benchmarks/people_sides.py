"""The sides of `benchmarks.people`. Each writes beside the run and deletes what it wrote."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from deepcluster.recipes import run_epochs
from deepcluster_core.data.encode import encode_png
from flows.show.page import write_page
from flows.show.page_inputs import CLUSTERS
from stages.runs.outputs.duplicate_images import find_duplicates
from stages.runs.outputs.image_table import TableRequest, write_image_table
from stages.runs.outputs.picked_images import pick_images
from stages.runs.outputs.sorted_images import SortRequest, sort_images
from stages.runs.past_run import PastRun

RECIPE = """
epochs: 0
dataset: {source: SOURCE, shorter_side: 32, channels: 1, encoding: raw}
network: {name: smallnet, image_size: 32}
extract: {resize: 32}
cluster: {k: 100, pca_dim: 64}
train: {batch_size: 32}
compute: {device: cpu}
"""
NUM_PICKED = 500
SIDE_PX = 32


def prepare(folder: str, num_images: int) -> None:
    """Write pictures and cluster them."""
    root = Path(folder)
    write_random_pictures(root / "pictures.parquet", count=num_images)
    recipe = root / "people.yaml"
    recipe.write_text(RECIPE.replace("SOURCE", str(root / "pictures.parquet")))
    run_epochs(recipe, root / "run", echo=False)


def write_random_pictures(path: Path, *, count: int) -> None:
    """Write a Parquet file of grey pictures: few pixels, drawn at random and enlarged."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for number in range(count):
        small_HWC = generator.integers(256, size=(4, 4, 1), dtype=np.uint8)
        large_HWC = small_HWC.repeat(SIDE_PX // 4, axis=0).repeat(SIDE_PX // 4, axis=1)
        rows.append({"bytes": encode_png(large_HWC), "path": f"{number:06d}.png"})
    pd.DataFrame({"image": rows}).to_parquet(path)


def table(folder: str) -> None:
    """Write a table of all columns that are not on request."""
    _write_table(folder, TableRequest())


def table_with_pictures(folder: str) -> None:
    """Write a table with embeddings and thumbnails."""
    _write_table(folder, TableRequest(embedding=True, thumbnails=True))


def sort(folder: str) -> None:
    """Write all images to a folder for each cluster."""
    out = Path(folder) / "sorted"
    sort_images(_run(folder), out, SortRequest())
    shutil.rmtree(out)


def pick(folder: str) -> None:
    """Choose images to label."""
    pick_images(_run(folder), NUM_PICKED)


def duplicates(folder: str) -> None:
    """Find images that are nearly equal."""
    find_duplicates(_run(folder))


def report(folder: str) -> None:
    """Write the report."""
    out = Path(folder) / "report.html"
    write_page(_run(folder).folder, clusters=CLUSTERS, seed=None, out=out)
    out.unlink()


def _write_table(folder: str, request: TableRequest) -> None:
    out = Path(folder) / "table.parquet"
    write_image_table(_run(folder), out, request)
    out.unlink()


def _run(folder: str) -> PastRun:
    return PastRun.open(str(Path(folder) / "run"))
