"""Tables of images with what is known about each, in the formats that people's tools read.

Suffixes: B rows of a batch, D values of an embedding.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from deepcluster_core.artifacts.h5ad import H5adFile
from deepcluster_core.artifacts.outputs import About, RowTable

Batch = Mapping[str, Any]
"""Values of some images by column: arrays, lists of texts or None, and of bytes for pictures."""

PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
"""How Hugging Face's datasets store a picture."""
IMAGE, EMBEDDING = "image", "embedding"
TYPES = {
    "image_id": pa.int64(),
    "path": pa.string(),
    "cluster": pa.int32(),
    "cluster_name": pa.string(),
    "distance": pa.float32(),
    "second_cluster": pa.int32(),
    "stability": pa.float32(),
    "outlier": pa.float32(),
    "nearest": pa.int64(),
    "similarity": pa.float32(),
    "x": pa.float32(),
    "y": pa.float32(),
    "label": pa.string(),
    "group": pa.int32(),
    "reason": pa.string(),
    "file": pa.string(),
    IMAGE: PICTURE,
}
_NUMBERED = re.compile(r"_[1-9][0-9]*$")


class ImageRows(Protocol):
    """A file that rows are added to."""

    rows: int

    def add(self, batch: Batch) -> None:
        """Add a batch of images."""
        ...


def image_table(
    path: Path,
    columns: Sequence[str],
    about: About,
    *,
    suffix: str,
    dim: int = 0,
    places: str = "X_map",
) -> AbstractContextManager[ImageRows]:
    """Return a file to add images to.

    Args:
        path: file to create.
        columns: names of the columns, in order.
        about: JSON values that say what the file is made from. CSV has no place for them.
        suffix: .parquet, .csv or .h5ad.
        dim: D, if there are embeddings.
        places: name of the map in an AnnData file.

    Raises:
        ConfigError: h5py is needed, and not installed.
    """
    if suffix == ".h5ad":
        return H5adFile(path, columns, about, dim=dim, places=places)
    return _ImageTable(path, columns, about, suffix=suffix, dim=dim)


class _ImageTable(RowTable):
    """A Parquet or CSV file of images."""

    def __init__(
        self, path: Path, columns: Sequence[str], about: About, *, suffix: str, dim: int
    ) -> None:
        fields = [pa.field(name, _type_of(name, dim)) for name in columns]
        metadata: dict[str, str] = {}
        if IMAGE in columns:
            # Without it, datasets would read a picture as a dictionary of bytes and path.
            features = {"info": {"features": {IMAGE: {"_type": "Image"}}}}
            metadata["huggingface"] = json.dumps(features)
        schema = pa.schema(fields, metadata)
        super().__init__(path, schema, about, suffix=suffix)
        self._fields = fields
        self._dim = dim

    def add(self, batch: Batch) -> None:
        """Add a batch of images."""
        arrays: list[pa.Array] = []
        for field in self._fields:
            values = batch[field.name]
            if field.name == EMBEDDING:
                flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, self._dim))
            else:
                # NaN stands for what is not known, as in pandas.
                arrays.append(pa.array(values, field.type, from_pandas=True))
        self._add(*arrays)


def _type_of(column: str, dim: int) -> pa.DataType:
    """Return the type of a column; those of further clusterings are numbered."""
    if column == EMBEDDING:
        return pa.list_(pa.float32(), dim)
    return TYPES[_NUMBERED.sub("", column)]
