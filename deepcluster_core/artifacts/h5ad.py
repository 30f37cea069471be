"""Write the images of a run as an AnnData file (.h5ad), row by row.

The layout is that of AnnData's specification of files, versions 0.1.0 and 0.2.0 of its elements,
which anndata reads since 0.8: https://anndata.readthedocs.io/en/latest/fileformat-prose.html.
Written with h5py alone, it needs no more memory than a batch.

Suffixes: N images, B rows of a batch, D values of an embedding.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from deepcluster_core.artifacts.own_output import ABOUT
from deepcluster_core.errors import ConfigError

CHUNK_ROWS = 4096
INDEX = "_index"
EMBEDDING = "embedding"
CATEGORIES = ("cluster_name", "label")
"""Columns of text that few values recur in."""


def import_h5py() -> Any:  # noqa: ANN401  it ships no types
    """Return h5py.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import h5py  # noqa: PLC0415  optional
    except ImportError as error:
        raise ConfigError(
            f"a .h5ad file needs the package h5py, which cannot be imported ({error}).\n"
            f"  Fix: pip install h5py, or choose .parquet."
        ) from error
    return h5py


def read_h5ad_about(path: Path) -> str:
    """Return the JSON in `uns` that says what a file was made from; KeyError if it is absent."""
    with import_h5py().File(path, "r") as file:
        return file["uns"][ABOUT][()].decode()


class H5adFile:
    """An AnnData file that grows by batches: `obs`, the map in `obsm` and the embedding in `X`."""

    def __init__(
        self, path: Path, columns: Sequence[str], about: Mapping[str, Any], *, dim: int, places: str
    ) -> None:
        """Create the file without rows.

        Args:
            path: file to create.
            columns: names of the columns in the order of `add`.
            about: JSON values that say what the file is made from.
            dim: D; 0 for a file without embeddings.
            places: name in `obsm` of the columns x and y, such as `X_umap`.
        """
        h5py = import_h5py()
        self._text_type = h5py.string_dtype()
        self._file = h5py.File(path, "w")
        self._dim = dim
        self._has_places = "x" in columns and "y" in columns
        elsewhere = (EMBEDDING, "x", "y") if self._has_places else (EMBEDDING,)
        self._columns = [name for name in columns if name not in elsewhere]
        self._places = places
        self._categories: dict[str, dict[str, int]] = {name: {} for name in CATEGORIES}
        self.rows = 0
        _mark(self._file, "anndata", "0.1.0")
        obs = _mark(self._file.create_group("obs"), "dataframe", "0.2.0")
        obs.attrs["_index"] = INDEX
        obs.attrs["column-order"] = np.array(self._columns, dtype=self._text_type)
        uns = _mark(self._file.create_group("uns"), "dict", "0.1.0")
        _mark(uns.create_dataset(ABOUT, data=json.dumps(about)), "string", "0.2.0")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Write what is known at the end, unless an error occurred, and close the file."""
        with self._file:
            if kind is None:
                self._finish()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Add rows: an array of B values for each column, texts with None where there is none."""
        start, stop = self.rows, self.rows + len(batch["image_id"])
        ids = [str(image_id) for image_id in batch["image_id"]]
        self._append(f"obs/{INDEX}", np.array(ids, dtype=object), start, stop)
        for name in self._columns:
            values = batch[name]
            if name in CATEGORIES:
                self._append(f"obs/{name}/codes", self._codes(name, values), start, stop)
            else:
                self._append(f"obs/{name}", np.asarray(values), start, stop)
        if self._has_places:
            places_B2 = np.stack([batch["x"], batch["y"]], axis=1)
            self._append(f"obsm/{self._places}", places_B2, start, stop)
        if self._dim:
            self._append("X", np.asarray(batch[EMBEDDING], np.float32), start, stop)
        self.rows = stop

    def _codes(self, name: str, texts: Sequence[str | None]) -> "np.ndarray[Any, Any]":
        """Return texts as numbers, -1 for None; new texts get the next numbers."""
        codes = self._categories[name]
        numbers = [-1 if text is None else codes.setdefault(text, len(codes)) for text in texts]
        return np.array(numbers, np.int32)

    def _append(self, name: str, values: "np.ndarray[Any, Any]", start: int, stop: int) -> None:
        """Write rows of an array, which is created with its first ones."""
        if name not in self._file:
            is_text = values.dtype == object
            shape = values.shape[1:]
            array = self._file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(CHUNK_ROWS, *shape),
                dtype=self._text_type if is_text else values.dtype,
            )
            _mark(array, "string-array" if is_text else "array", "0.2.0")
        array = self._file[name]
        array.resize(stop, axis=0)
        array[start:stop] = values

    def _finish(self) -> None:
        """Write the categories, and the parts that every AnnData file has."""
        for name in set(CATEGORIES) & set(self._columns):
            group = _mark(self._file[f"obs/{name}"], "categorical", "0.2.0")
            group.attrs["ordered"] = False
            texts = np.array([*self._categories[name]], dtype=object)
            array = group.create_dataset("categories", data=texts, dtype=self._text_type)
            _mark(array, "string-array", "0.2.0")
        var = _mark(self._file.create_group("var"), "dataframe", "0.2.0")
        var.attrs["_index"] = INDEX
        var.attrs["column-order"] = np.array([], dtype=self._text_type)
        numbers = np.array([str(number) for number in range(self._dim)], dtype=object)
        array = var.create_dataset(INDEX, data=numbers, dtype=self._text_type)
        _mark(array, "string-array", "0.2.0")
        for name in ("obsm", "varm", "obsp", "varp", "layers"):
            _mark(self._file.require_group(name), "dict", "0.1.0")


def _mark(element: Any, kind: str, version: str) -> Any:  # noqa: ANN401  h5py ships no types
    """Give an element the attributes by which anndata recognises it; return the element."""
    element.attrs["encoding-type"] = kind
    element.attrs["encoding-version"] = version
    return element
