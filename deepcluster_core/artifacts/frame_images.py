"""Write images as a Parquet file in the layout of the Hugging Face hub."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepcluster_core.artifacts.parquet_images import BATCH_ROWS

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A row of the file."""

    path: str
    """Its name, which must differ from the others."""
    contents: bytes
    """The whole image file."""
    label: str | None
    """Its class; None if it has none."""


def write_images(path: Path, images: Iterable[StoredImage], *, with_labels: bool) -> int:
    """Write images with the columns `image` and, if wanted, `label`; return their number.

    The metadata tell Hugging Face's `datasets` that the column holds images. Memory holds a batch.
    """
    schema = _schema(with_labels=with_labels)
    num_images = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(iter(images)):
            cells = [{"bytes": image.contents, "path": image.path} for image in batch]
            columns = {"image": pa.array(cells, IMAGE)}
            if with_labels:
                columns["label"] = pa.array([image.label for image in batch], pa.string())
            writer.write_table(pa.table(columns, schema=schema))
            num_images += len(batch)
    return num_images


def _batches(images: Iterator[StoredImage]) -> Iterator[list[StoredImage]]:
    while batch := list(islice(images, BATCH_ROWS)):
        yield batch


def _schema(*, with_labels: bool) -> pa.Schema:
    fields = {"image": IMAGE}
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if with_labels:
        fields["label"] = pa.string()
        features["label"] = {"dtype": "string", "_type": "Value"}
    described = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": described})
