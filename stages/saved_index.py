"""Continue an index where an interrupted attempt has saved its progress."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.file_names import COLOURS, PIXELS
from deepcluster_core.artifacts.images_writer import ImagesWriter
from deepcluster_core.artifacts.index_saves import (
    IndexSave,
    Row,
    forget_rows,
    part_paths,
    read_rows,
)
from deepcluster_core.artifacts.saved import Saved
from deepcluster_core.data.findings import Findings
from deepcluster_core.data.sources.bookmarks import Bookmark


@dataclass(frozen=True)
class SavedIndex:
    """What an interrupted attempt has saved, after a check that its files are there."""

    folder: Path
    save: IndexSave
    facts: Mapping[str, Any]
    """Facts of the save, among them those of the manifest about deep pictures."""

    @property
    def bookmark(self) -> Bookmark | None:
        """A place in the source before which all images are saved."""
        values = self.facts["bookmark"]
        return None if values is None else Bookmark(**values)

    def restore(self, writer: ImagesWriter, findings: Findings) -> int:
        """Continue the writer and the findings; return how many images are saved."""
        findings.restore(self.save.findings)
        writer.resume(self.save, self._rows())
        return self.save.seen

    def _rows(self) -> Iterator[list[Row]]:
        """Yield the rows of each file of pixels."""
        for number in range(self.save.parts):
            rows = read_rows(self.folder, number)
            assert rows is not None  # checked by `saved_index`
            yield rows


class FullParts:
    """Files of packed pixels that are full, which a run on an object store uploads at once."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._published: set[Path] = set()

    def publish(self, save: IndexSave) -> None:
        """Begin to upload the files that belong to a save and were not published yet."""
        folder = self._draft.folder
        paths = part_paths(folder / PIXELS, range(save.parts))
        paths += part_paths(folder / COLOURS, range(save.colour_parts))
        for path in paths:
            if path not in self._published:
                self._published.add(path)
                self._draft.publish(path)


def saved_index(folder: Path, saved: Saved | None) -> SavedIndex | None:
    """Return what an interrupted attempt has saved; None if there is nothing that can be used."""
    if saved is None:
        return None
    save = IndexSave.of(saved.facts)
    if all(read_rows(folder, number) is not None for number in range(save.parts)):
        return SavedIndex(folder, save, saved.facts)
    forget_rows(folder)
    return None
