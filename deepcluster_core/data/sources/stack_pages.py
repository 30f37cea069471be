"""Images of the pages of stacks, for `dataset.pages: all`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from deepcluster_core.data.pages import num_pages, page_of
from deepcluster_core.data.sources.base import SourceImage
from deepcluster_core.data.unreadable import UnreadableImageError
from deepcluster_core.shortage import is_shortage


def pages_as_images(images: Iterable[SourceImage]) -> Iterator[SourceImage]:
    """Yield an image for each page of the files with several, as `stack.tif#page=2`, from 1.

    Each file is read once to count its pages, and again for each page. Files that cannot be read
    stay one image, so that the reason is recorded.
    """
    for image in images:
        try:
            count = num_pages(image.read())
        except (OSError, UnreadableImageError) as error:
            if is_shortage(error):
                raise
            count = 1
        if count == 1:
            yield image
            continue
        for number in range(count):
            path = f"{image.path}#page={number + 1}"
            yield replace(image, path=path, read=partial(_read_page, image.read, number))


def _read_page(read: Callable[[], bytes], number: int) -> bytes:
    """Return a file with one page.

    Raises:
        OSError: the file cannot be read, or is damaged.
    """
    try:
        return page_of(read(), number)
    except UnreadableImageError as error:
        raise OSError(str(error)) from error
