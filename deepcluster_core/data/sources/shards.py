"""Tar shards as a source of images, with labels stored as in WebDataset or ImageNet."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepcluster_core.data.sources.base import SourceImage
from deepcluster_core.data.sources.bookmarks import Bookmark, FileListing, last_before
from deepcluster_core.data.sources.shard_files import ShardFiles
from deepcluster_core.data.sources.tally import FileTally, Tally
from deepcluster_core.data.sources.tar_listing import TarListing


class TarSource:
    """The images in tar files, in the order of the files' names and of their members.

    The members that share a key are a sample; `samples` decides which of them are pictures and
    where their label is. If a tar file holds one class, as ImageNet's do, its name is the label.
    Tar files inside a tar file are read too, one level deep, after the other members.

    Members are read in place and never extracted; a compressed tar file is unpacked to a temporary
    one first, one after the other. Links, devices and sparse files in a shard are
    skipped, and a leading '/' and any '..' are removed from names.
    """

    def __init__(
        self,
        files: ShardFiles,
        *,
        with_labels: bool,
        image_key: Sequence[str] | None = None,
        label_key: str | None = None,
    ) -> None:
        """Store the arguments; nothing is read yet.

        Args:
            files: the shards.
            with_labels: look for labels.
            image_key: the extensions of the pictures to take, see `chosen_pictures`.
            label_key: the key of the label in JSON members. None: see `find_label`.
        """
        self._files = files
        self._with_labels = with_labels
        self._label_key = label_key
        self._image_key: frozenset[str] | None = None
        if image_key:
            self._image_key = frozenset(key.lower().lstrip(".") for key in image_key)
        self._tally = Tally()
        self._bookmarks: deque[Bookmark] = deque()

    @property
    def originals(self) -> None:
        """None: images are members."""
        return None

    def images(self) -> Iterator[SourceImage]:
        """See `Source`.

        Raises:
            ConfigError: a sample has several pictures and it is unclear which one is meant, or
                none of the pictures is taken.
        """
        return self.images_after(None)

    def images_after(self, bookmark: Bookmark | None) -> Iterator[SourceImage]:
        """See `ResumableSource`."""
        start = bookmark or Bookmark(0, 0, {})
        self._bookmarks.clear()
        self._tally = Tally()
        listing = self._listing(self._tally)
        if bookmark is not None:
            listing.restore(bookmark.state)
        shards = self._files.shards()
        are_classes = listing.hold_classes(shards)
        num_images = start.num_images
        opened = self._files.opened(shards, range(start.num_files, len(shards)))
        for num_files, shard in enumerate(opened, start.num_files + 1):
            for image in listing.images_of(shard, is_class=are_classes):
                num_images += 1
                yield image
            self._bookmarks.append(Bookmark(num_files, num_images, listing.state()))
        # Shards without any image are empty, or all of their pictures were left out.
        if not listing.has_images:
            listing.check_any_taken(self._files.first)

    def bookmark(self, num_images: int) -> Bookmark | None:
        """See `ResumableSource`."""
        return last_before(self._bookmarks, num_images)

    @property
    def num_files(self) -> int:
        """See `DividedSource`."""
        return len(self._files.shards())

    def files_apart(
        self, numbers: Sequence[int], state: Mapping[str, Any] | None
    ) -> Iterator[FileListing]:
        """See `DividedSource`."""
        shards = self._files.shards()
        are_classes = self._listing(Tally()).hold_classes(shards)
        opened = self._files.opened(shards, numbers)
        for number, shard in zip(numbers, opened, strict=True):
            tally = FileTally()
            tally.labels_are_files = are_classes
            listing = self._listing(tally)
            listing.begin_apart(state)
            images = listing.images_of(shard, is_class=are_classes)
            yield FileListing(number, images, listing.found)

    def joined(
        self, state: Mapping[str, Any] | None, number: int, found: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """See `DividedSource`."""
        listing = self._listing(Tally())
        if state is not None:
            listing.restore(state)
        shard = self._files.shards()[number]
        return listing.state() if listing.join(shard, found) else None

    def finish(self, state: Mapping[str, Any] | None) -> None:
        """See `DividedSource`."""
        self._tally = Tally()
        listing = self._listing(self._tally)
        if state is not None:
            listing.restore(state)
        if not listing.has_images:
            listing.check_any_taken(self._files.first)

    def _listing(self, tally: Tally) -> TarListing:
        return TarListing(self._with_labels, self._image_key, self._label_key, tally)

    def notes(self) -> list[str]:
        """See `Source`."""
        return self._tally.sentences()

    def fingerprint(self) -> str:
        """See `Source`."""
        return self._files.fingerprint()

    def count(self) -> None:
        """Return None: a tar file has no table of its members."""
        return
