"""The progress of an evaluation, over all of its networks."""

from deepcluster_core.context import Context


class ProgressCounter:
    """A counter of finished images or steps, which reports each advance to the context."""

    def __init__(self, context: Context, total: int) -> None:
        self._context = context
        self._total = total
        self._done = 0

    def advance(self, count: int = 1) -> None:
        """Count `count` more images or steps as finished."""
        self._done += count
        self._context.progress(self._done, self._total)
