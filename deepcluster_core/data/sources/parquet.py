"""Parquet files of images, in the layout of the Hugging Face hub."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from deepcluster_core.artifacts import parquet_images
from deepcluster_core.artifacts.parquet_images import Layout
from deepcluster_core.data.contents import DataFile
from deepcluster_core.data.sources.base import SourceImage, displayed, fingerprint_files
from deepcluster_core.data.sources.bookmarks import Bookmark, FileListing, last_before
from deepcluster_core.data.sources.labels import label_in, label_in_json, label_of
from deepcluster_core.errors import ConfigError, SourceError
from deepcluster_core.store_urls import Location

Result = TypeVar("Result")

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
"""The value in folder names that Hive and Spark write for a missing one."""

SPLIT = re.compile(r"(train|validation|val|test)-\d+-of-\d+")
"""File names of splits on the Hugging Face hub."""


class ParquetSource:
    """The rows of Parquet files, in the order of the files' names and of the rows.

    The path of an image is the one stored in its row, if the file stores unique paths, and
    `file#row` with rows from 0 if it does not. If there are several files, the name of the file
    precedes the stored path: `train-0.parquet/cat.png`. Files may be in partitions, which are
    folders named `label=cat`; these are the labels of files without a column of labels.
    """

    def __init__(
        self,
        place: Location,
        files: Mapping[str, DataFile],
        *,
        with_labels: bool,
        image_key: Sequence[str] | None = None,
        label_key: str | None = None,
    ) -> None:
        """Read the schemas.

        Args:
            place: the folder, for messages.
            files: the files by their names in it, sorted.
            with_labels: look for labels.
            image_key: the column of the images. None: the usual names are tried.
            label_key: the column of the labels. None: the usual names are tried.

        Raises:
            SourceError: a file is not Parquet or lacks the columns, or labels are numbers in one
                file and names in another.
            ConfigError: it is not clear which column holds the images, or a chosen column does
                not exist.
        """
        if image_key and len(image_key) > 1:
            raise ConfigError(
                f"dataset.image_key: {', '.join(image_key)} are several columns, but only one "
                f"column of a Parquet file is read.\n"
                f"  Fix: choose one of them."
            )
        column = image_key[0] if image_key else None
        self._place = place
        self._files = files
        self._with_labels = with_labels
        read_layout = partial(
            parquet_images.read_layout,
            with_label=with_labels,
            image_key=column,
            label_key=label_key,
        )
        layouts = [*self._map(read_layout)]
        # Where only some of the files name their classes, numbers are what all of them have.
        self._ignores_class_names = _are_mixed(layouts)
        if self._ignores_class_names:
            layouts = [layout.without_class_names() for layout in layouts]
        self._layouts = layouts
        self._bookmarks: deque[Bookmark] = deque()
        self._check_label_kinds()

    @property
    def originals(self) -> None:
        """None: images are rows."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        return self.images_after(None)

    def bookmark(self, num_images: int) -> Bookmark | None:
        """See `ResumableSource`."""
        return last_before(self._bookmarks, num_images)

    def images_after(self, bookmark: Bookmark | None) -> Iterator[SourceImage]:
        """See `ResumableSource`."""
        start = bookmark or Bookmark(0, 0, {})
        self._bookmarks.clear()
        num_images = start.num_images
        for listing in self.files_apart(range(start.num_files, self.num_files), None):
            for image in listing.images:
                num_images += 1
                yield image
            self._bookmarks.append(Bookmark(listing.number + 1, num_images, {}))

    @property
    def num_files(self) -> int:
        """See `DividedSource`."""
        return len(self._files)

    def files_apart(
        self, numbers: Sequence[int], state: Mapping[str, Any] | None
    ) -> Iterator[FileListing]:
        """See `DividedSource`. The schemas of all files have been read, so `state` says nothing."""
        names = [*self._files]
        for number, file in zip(numbers, self._whole(numbers), strict=True):
            images = self._images_of(names[number], self._layouts[number], file)
            yield FileListing(number, images, dict)

    def joined(
        self, state: Mapping[str, Any] | None, number: int, found: Mapping[str, Any]
    ) -> dict[str, Any]:
        """See `DividedSource`."""
        return {}

    def finish(self, state: Mapping[str, Any] | None) -> None:
        """See `DividedSource`."""

    def _images_of(self, raw_name: str, layout: Layout, file: DataFile) -> Iterator[SourceImage]:
        name = displayed(raw_name)
        # Paths are unique only within a file.
        prefix = f"{name}/" if len(self._files) > 1 else ""
        partition_label = _partition_label(raw_name) if self._with_labels else None
        rows = parquet_images.read_image_rows(file, layout)
        for number, row in enumerate(rows):
            if row.path is None:
                path = f"{name}#{number}"
            else:
                path = prefix + row.path
            # A column of labels is preferred to the name of the partition.
            label = partition_label
            if layout.label is not None:
                label = _label(row.label, layout)
            yield SourceImage(path, label, row.read)

    def fingerprint(self) -> str:
        """See `Source`."""
        files = {name: file for name, file in self._files.items() if isinstance(file, Path)}
        return fingerprint_files("parquet", files.items())

    def count(self) -> int:
        """Add up the numbers of rows in the footers."""
        return sum(self._map(parquet_images.count_rows))

    def notes(self) -> list[str]:
        """See `Source`."""
        notes: list[str] = []
        unused: dict[str, None] = {}  # in the order of the columns, each once
        for layout in self._layouts:
            unused.update(dict.fromkeys(layout.unused))
        if unused:
            notes.append(
                f"columns of images that are not read: {', '.join(unused)}; dataset.image_key "
                f"chooses a column other than {self._layouts[0].image}"
            )
        if self._ignores_class_names:
            notes.append("labels are numbers: only some of the files name their classes")
        # Without labels in any file, or without any wanted, there is nothing to report.
        unlabelled = [*self._unlabelled_files()]
        if self._with_labels and 0 < len(unlabelled) < len(self._files):
            notes.append(
                f"files without a column of labels: {len(unlabelled)} of {len(self._files)}, for "
                f"example {displayed(unlabelled[0])}"
            )
        splits: set[str] = set()
        for name in self._files:
            if found := SPLIT.match(name.rpartition("/")[2]):
                splits.add(found[1])
        if len(splits) > 1:
            notes.append(
                f"files of several splits are read as one data set: {', '.join(sorted(splits))}; "
                f"to read one split, give a folder with its files only"
            )
        return notes

    def _map(self, function: Callable[[DataFile], Result]) -> Iterator[Result]:
        """Yield what a function returns for each file, of which it reads the footer alone."""
        return map(function, self._files.values())

    def _whole(self, numbers: Sequence[int]) -> Iterator[DataFile]:
        """Yield the files of these numbers, each read before the next one is taken."""
        files = [*self._files.values()]
        for number in numbers:
            yield files[number]

    def _unlabelled_files(self) -> Iterator[str]:
        for name, layout in zip(self._files, self._layouts, strict=True):
            if layout.label is None and _partition_label(name) is None:
                yield name

    def _check_label_kinds(self) -> None:
        """Raise SourceError if labels are numbers in one file and names in another."""
        name_by_kind: dict[str, str] = {}
        for name, layout in zip(self._files, self._layouts, strict=True):
            file_name = name.rpartition("/")[2]
            name_by_kind.setdefault(layout.label_kind, displayed(file_name))
        if "numbers" in name_by_kind and "names" in name_by_kind:
            raise SourceError(
                f"{self._place}: labels are numbers in {name_by_kind['numbers']} but names in "
                f"{name_by_kind['names']}, so the same class would count as two.\n"
                f"  Fix: write all labels as numbers or all as names, or set "
                f"dataset.labels: none to ignore them."
            )


def _are_mixed(layouts: Sequence[Layout]) -> bool:
    """Return whether some files name the classes that they number, and others do not."""
    has_names = any(layout.class_names is not None for layout in layouts)
    return has_names and any(layout.label_kind == "numbers" for layout in layouts)


def _label(cell: Any, layout: Layout) -> str | None:  # noqa: ANN401  any type of Arrow's
    if layout.label_kind != "json":
        return label_of(cell)
    # JSON is stored as text, or as a column with fields.
    if not isinstance(cell, str | bytes):
        return label_in(cell)
    try:
        return label_in_json(cell)
    except ValueError:
        return None


def _partition_label(name: str) -> str | None:
    """Return the label in the names of the folders of a file, or None."""
    for folder in name.split("/")[:-1]:
        key, separator, value = folder.partition("=")
        if not separator or key not in parquet_images.LABEL_COLUMNS:
            continue
        if value == NO_PARTITION:
            return None
        decoded = unquote(value)  # Spark escapes special characters as in URLs
        return label_of(displayed(decoded))
    return None
