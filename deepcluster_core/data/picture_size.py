"""Limits on the size of a picture, checked before it is decoded."""

from deepcluster_core.data.unreadable import UnreadableImageError

MAX_PIXELS = 178_956_970
"""Limit on the pixels of an image, checked before decoding: Pillow's own limit for an error."""

MAX_ASPECT = 100
"""Limit on longer side / shorter side. Our choice; photographs stay below 20.

A line of pixels, enlarged until its shorter side fits, would fill the memory, and no crop of it
would show anything.
"""


def check_size(width: int, height: int) -> None:
    """Raise UnreadableImageError for images that are empty, too large or too narrow."""
    if width * height == 0:
        raise UnreadableImageError(f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels is over the limit of {MAX_PIXELS} pixels"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"{width} x {height} pixels: one side is more than {MAX_ASPECT} times the other"
        )
