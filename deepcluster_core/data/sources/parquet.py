"""Parquet files of images, in the layout of the Hugging Face hub."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deepcluster_core.artifacts import parquet_images
from deepcluster_core.artifacts.parquet_images import Layout
from deepcluster_core.data.sources.base import SourceImage, displayed, fingerprint_files
from deepcluster_core.data.sources.labels import label_in, label_in_json, label_of
from deepcluster_core.errors import ConfigError, SourceError

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and Spark write for a missing value."""

SPLIT = re.compile(r"(train|validation|val|test)-\d+-of-\d+")
"""Names of files on the Hugging Face hub."""


class ParquetSource:
    """The rows of Parquet files, in the order of the files' names and of the rows.

    `path` is the path stored in the row, if the file stores one for it and none twice, else
    `file#row` with rows from 0. With several files the file's name comes before the stored path:
    `train-0.parquet/cat.png`. Files may lie in partitions, folders named `label=cat`: that is then
    the label, where the file has none.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[Path],
        *,
        with_labels: bool,
        image_key: Sequence[str] | None = None,
    ) -> None:
        """Read the schemas.

        Args:
            root: the folder that names are relative to.
            files: sorted.
            with_labels: look for labels.
            image_key: the column of the images. None: the usual names are tried.

        Raises:
            SourceError: a file is not Parquet or does not have the columns, or labels are numbers
                in one file and names in another.
            ConfigError: it is not clear which column holds the images.
        """
        if image_key and len(image_key) > 1:
            raise ConfigError(
                f"dataset.image_key: {', '.join(image_key)} are several columns, but of Parquet "
                f"files one is read.\n"
                f"  Fix: choose one of them."
            )
        self._root = root.absolute()
        self._files = [file.absolute() for file in files]
        self._with_labels = with_labels
        self._layouts = [
            parquet_images.read_layout(
                file, with_label=with_labels, image_key=image_key[0] if image_key else None
            )
            for file in self._files
        ]
        self._refuse_mixed_labels()

    @property
    def originals(self) -> None:
        """None: images are rows."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        for file, layout in zip(self._files, self._layouts, strict=True):
            name = displayed(self._name(file))
            prefix = f"{name}/" if len(self._files) > 1 else ""
            partition = _partition_label(self._name(file)) if self._with_labels else None
            rows = parquet_images.read_image_rows(file, layout)
            for number, row in enumerate(rows):
                path = f"{name}#{number}" if row.path is None else prefix + row.path
                label = partition if layout.label is None else _label(row.label, layout)
                yield SourceImage(path, label, row.read)

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_files("parquet", ((self._name(file), file) for file in self._files))

    def count(self) -> int:
        """Read the footers."""
        return sum(parquet_images.count_rows(file) for file in self._files)

    def notes(self) -> list[str]:
        """See `Source`."""
        said: list[str] = []
        unused = dict.fromkeys(name for layout in self._layouts for name in layout.unused)
        if unused:
            said.append(
                f"columns of images that are not read: {', '.join(unused)}; dataset.image_key "
                f"chooses another column than {self._layouts[0].image}"
            )
        without = [
            file
            for file, layout in zip(self._files, self._layouts, strict=True)
            if layout.label is None and _partition_label(self._name(file)) is None
        ]
        if self._with_labels and 0 < len(without) < len(self._files):
            said.append(
                f"files without a column of labels: {len(without)} of {len(self._files)}, for "
                f"example {displayed(self._name(without[0]))}"
            )
        parts = {found[1] for file in self._files if (found := SPLIT.match(file.name))}
        if len(parts) > 1:
            said.append(
                f"files of several splits are read as one data set: {', '.join(sorted(parts))}; "
                f"to read one, give a folder of its files alone"
            )
        return said

    def _name(self, file: Path) -> str:
        return file.relative_to(self._root).as_posix()

    def _refuse_mixed_labels(self) -> None:
        places: dict[str, Path] = {}
        for file, layout in zip(self._files, self._layouts, strict=True):
            places.setdefault(layout.label_kind, file)
        if "numbers" in places and "names" in places:
            raise SourceError(
                f"{self._root}: labels are numbers in {displayed(places['numbers'].name)} but "
                f"names in {displayed(places['names'].name)}, so the same class would count as "
                f"two.\n"
                f"  Fix: write the labels alike, or set dataset.labels: none to do without."
            )


def _label(cell: Any, layout: Layout) -> str | None:  # noqa: ANN401  as Arrow gives it
    if layout.label_kind != "json":
        return label_of(cell)
    if not isinstance(cell, str | bytes):
        return label_in(cell)
    try:
        return label_in_json(cell)
    except ValueError:
        return None


def _partition_label(name: str) -> str | None:
    """Return the label in the names of the folders above a file."""
    for folder in name.split("/")[:-1]:
        key, separator, value = folder.partition("=")
        if separator and key in parquet_images.LABEL_COLUMNS:
            return None if value == NO_PARTITION else label_of(displayed(unquote(value)))
    return None
