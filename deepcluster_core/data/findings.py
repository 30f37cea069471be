"""What is noteworthy about the pictures of a data set once they are decoded: notes and warnings."""

from collections.abc import Mapping
from typing import Any, Protocol

from deepcluster_core.data.pages import Pages

HARDLY_USED = 0.25
"""Share of the range of 16 bits, 0 to 1. If no picture reaches more of it, people are warned.

Our choice: such pictures reach at most 64 of 255, which looks black.
"""
_TOP = 65535


class PictureFacts(Protocol):
    """Facts about a decoded picture, as `Decoded` has them."""

    @property
    def format(self) -> str:
        """Format found in the content."""
        ...

    @property
    def num_pages(self) -> int:
        """Number of pages of the file."""
        ...

    @property
    def highest(self) -> float | None:
        """The highest value of a picture of more than 8 bits that was converted by `range`."""
        ...

    @property
    def is_deep(self) -> bool:
        """Whether a picture that Pillow does not decode had more than 8 bits."""
        ...


class Findings:
    """Collects facts about decoded pictures, one after the other."""

    def __init__(self, pages: Pages | None) -> None:
        self._pages: Pages | None = pages
        self._num_stacks = 0
        self._most_pages = 0
        self._num_deep = 0
        self._highest = 0.0
        self._num_dicom = 0
        self._num_deep_dicom = 0

    def add(self, decoded: PictureFacts) -> None:
        """Add the facts about a picture."""
        if decoded.num_pages > 1:
            self._num_stacks += 1
            self._most_pages = max(self._most_pages, decoded.num_pages)
        if decoded.highest is not None:
            self._num_deep += 1
            self._highest = max(self._highest, decoded.highest)
        if decoded.format == "DICOM":
            self._num_dicom += 1
            self._num_deep_dicom += decoded.is_deep

    def state(self) -> dict[str, Any]:
        """Return what was found so far, as JSON values for `restore`."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was called."""
        vars(self).update(state)

    def notes(self) -> list[str]:
        """Return a note if pages were left out although nobody has chosen that."""
        if self._pages is not None or self._num_stacks == 0:
            return []
        number = "1 file has" if self._num_stacks == 1 else f"{self._num_stacks:,} files have"
        return [
            f"{number} more than one page, at most {self._most_pages:,}: the first was read; "
            f"dataset.pages: all makes an image of each, max takes their maximum, channels "
            f"joins them as the channels of one image"
        ]

    def warnings(self) -> list[str]:
        """Return warnings if pictures are nearly black, or differ in brightness by their files."""
        return [*self._nearly_black(), *self._mixed_windows()]

    def _mixed_windows(self) -> list[str]:
        without = self._num_deep_dicom
        if without in (0, self._num_dicom):
            return []
        return [
            f"DICOM pictures with a window or 8 bits: {self._num_dicom - without:,}, with neither: "
            f"{without:,}. Their brightness cannot be compared, and clusters may follow it; "
            f"cluster them in two runs, or write the same window into all files"
        ]

    def _nearly_black(self) -> list[str]:
        if self._num_deep == 0 or self._highest > HARDLY_USED * _TOP:
            return []
        number = "1 picture" if self._num_deep == 1 else f"{self._num_deep:,} pictures"
        level = round(self._highest * 255 / _TOP)
        return [
            f"{number} of more than 8 bits reach {self._highest:,.0f} of {_TOP:,} at most, so that "
            f"dataset.deep: range makes them nearly black ({level} of 255); dataset.deep: "
            f"percentile uses the values that they have"
        ]
