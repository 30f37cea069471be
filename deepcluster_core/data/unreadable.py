"""Errors for pictures that cannot be used; the message is short: it is a cell of a table."""

from collections import Counter

MAX_REASONS = 1000
"""Different ones that are counted: damaged files have many."""


class UnreadableImageError(ValueError):
    """This picture cannot be used; the message is the reason, short, for the skipped table."""


class DamagedImageError(UnreadableImageError):
    """Bytes are missing or wrong, so far as the codec can tell."""


class UnsupportedImageError(UnreadableImageError):
    """The file is of a kind that we do not read; the message says which, and what helps."""


class UnsupportedFeatureError(UnsupportedImageError):
    """A codec began to read the file, and has no way to go on."""


class Reasons:
    """How many pictures cannot be used for the same reason."""

    def __init__(self) -> None:
        """Begin with none."""
        self._count: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one picture."""
        if reason in self._count or len(self._count) < MAX_REASONS:
            self._count[reason] += 1

    def most_common(self) -> str:
        """Return lines for an error message: reasons that more than five pictures share."""
        common = [(reason, n) for reason, n in self._count.most_common(3) if n > 5]
        lines = (f"\n  {n} of them: {' '.join(reason.split())}" for reason, n in common)
        return "".join(lines)
