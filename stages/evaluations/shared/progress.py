"""The progress of an evaluation over all of its networks."""

from deepcluster_core.context import Context


class ProgressCounter:
    """Counts images, or steps, and reports how many of all are done."""

    def __init__(self, context: Context, total: int) -> None:
        self._context, self._done, self._total = context, 0, total

    def advance(self, count: int = 1) -> None:
        """Count more of them as done."""
        self._done += count
        self._context.progress(self._done, self._total)
