"""Parquet files of images, in the layout of the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from deepcluster_core.artifacts import parquet_images
from deepcluster_core.data.sources.base import SourceImage, displayed, fingerprint_files


class ParquetSource:
    """The rows of Parquet files, in the order of the files' names and of the rows.

    `path` is the path stored in the row, if the file stores one for it and none twice, else
    `file#row` with rows from 0. With several files the file's name comes before the stored path:
    `train-0.parquet/cat.png`.
    """

    def __init__(self, files: Sequence[Path], *, with_labels: bool) -> None:
        """Take `files`, sorted, and read their schemas.

        Raises:
            SourceError: a file is not Parquet or does not have the columns.
        """
        self._files = [file.absolute() for file in files]
        self._with_labels = with_labels
        for file in self._files:
            parquet_images.check_columns(file, with_label=with_labels)

    @property
    def originals(self) -> None:
        """None: images are rows."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`."""
        for file in self._files:
            name = displayed(file.name)
            prefix = f"{name}/" if len(self._files) > 1 else ""
            rows = parquet_images.read_image_rows(file, with_label=self._with_labels)
            for number, row in enumerate(rows):
                path = f"{name}#{number}" if row.path is None else prefix + row.path
                yield SourceImage(path, row.label, row.read)

    def fingerprint(self) -> str:
        """See `Source`."""
        return fingerprint_files("parquet", ((file.name, file) for file in self._files))

    def count(self) -> int:
        """Read the footers."""
        return sum(parquet_images.count_rows(file) for file in self._files)

    def notes(self) -> list[str]:
        """See `Source`."""
        return []
