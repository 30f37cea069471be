"""Errors for images that cannot be used; their short messages are stored in a table."""

from collections import Counter

MAX_REASONS = 1000
"""Limit on the distinct reasons that are counted, because damaged files have many."""


class UnreadableImageError(ValueError):
    """The image cannot be used; the message is a short reason for the table of skipped images."""


class DamagedImageError(UnreadableImageError):
    """Bytes are missing or wrong, according to the codec."""


class UnsupportedImageError(UnreadableImageError):
    """The file is of an unsupported kind; the message names it and says what to do."""


class UnsupportedFeatureError(UnsupportedImageError):
    """The file uses a feature of its format that the codec does not support."""


class MissingPackageError(UnsupportedImageError):
    """The file needs a package that is not installed; the message names it."""


class LeftOutError(UnreadableImageError):
    """The image is left out on purpose: it is listed with its reason, but nothing is lost."""


class Reasons:
    """Counts unusable images by reason."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one image."""
        # Messages of codecs contain numbers and bytes of the file, so they may all differ.
        is_full = len(self._count) >= MAX_REASONS
        if reason in self._count or not is_full:
            self._count[reason] += 1

    def most_common(self) -> str:
        """Return lines for an error message: the reasons that more than five images share."""
        lines: list[str] = []
        for reason, count in self._count.most_common(3):
            if count > 5:
                one_line = " ".join(reason.split())
                lines.append(f"\n  {count} of them: {one_line}")
        return "".join(lines)
