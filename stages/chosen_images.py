"""Which images of a source are indexed: all of them or a subset, files or pages of files."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from deepcluster_core import seeding
from deepcluster_core.data.pages import Pages
from deepcluster_core.data.sources import Source, SourceImage
from deepcluster_core.data.sources.bookmarks import DividedSource, ResumableSource
from deepcluster_core.data.sources.stack_pages import pages_as_images
from deepcluster_core.errors import SourceError
from stages.saved_index import SavedIndex


@dataclass(frozen=True)
class Choice:
    """The images of a source that are indexed, in its order."""

    source: Source
    subset: int | None
    """`dataset.subset`."""
    pages: Pages | None
    """`dataset.pages`."""
    seed: int
    """Seed of the run."""

    def whole_files(self) -> DividedSource | None:
        """Return the source if its files can be read apart; None if each needs those before it.

        A subset counts images from the first one on, and a save counts pages.
        """
        is_all = self.subset is None and self.pages != "all"
        return self.source if is_all and isinstance(self.source, DividedSource) else None

    def images(self, saved: SavedIndex | None = None) -> tuple[int | None, Iterator[SourceImage]]:
        """Return the number of images, None if it is unknown, and the images after those saved.

        Raises:
            SourceError: the source has fewer images than the subset.
        """
        num_saved = saved.save.seen if saved is not None else 0
        # How many pages there are is known only when all files have been opened.
        total = None if self.pages == "all" else self.source.count()
        if self.subset is not None:
            return self.subset, islice(self._drawn(self.subset, total), num_saved, None)
        bookmark = saved.bookmark if saved is not None else None
        # A bookmark counts files, so it knows no pages.
        if bookmark is None or self.pages == "all" or not isinstance(self.source, ResumableSource):
            return total, islice(self._all(), num_saved, None)
        images = self.source.images_after(bookmark)
        return total, islice(images, num_saved - bookmark.num_images, None)

    def _drawn(self, subset: int, total: int | None) -> Iterator[SourceImage]:
        # Some sources can only be counted by going through all images.
        if total is None:
            total = sum(1 for _ in self._all())
        if subset > total:
            raise SourceError(
                f"dataset.subset: {subset} images asked for, but the source has {total}.\n"
                f"  Fix: leave dataset.subset out to use all of them."
            )
        # A mask, and not a list of drawn numbers, keeps the images in the order of the source.
        generator = seeding.numpy_generator(self.seed, "index", "subset")
        is_chosen = np.zeros(total, bool)
        is_chosen[generator.choice(total, subset, replace=False)] = True
        images = zip(self._all(), is_chosen, strict=True)
        return (image for image, take in images if take)

    def _all(self) -> Iterator[SourceImage]:
        """Return the images of the source: its files, or the pages of its files."""
        if self.pages == "all":
            return pages_as_images(self.source.images())
        return self.source.images()
