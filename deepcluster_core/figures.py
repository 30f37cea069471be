"""The parts of matplotlib used to draw figures, independent of the user's matplotlib settings.

Figures are written to files through `Figure`, so neither a backend nor pyplot is needed.
"""

# ruff: noqa: E402  these imports must follow `_load`

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    """Import matplotlib, even if the user's settings make a plain import fail.

    The import raises ValueError for an unknown backend in MPLBACKEND (notebooks export it to
    programs in which that backend is not installed) and for a `matplotlibrc` that is not text; it
    raises OSError for a `matplotlibrc` that it may not read. The second attempt therefore uses the
    file that matplotlib ships. It runs in a different folder, because a `matplotlibrc` in the
    working folder takes precedence over all others.
    """
    try:
        return importlib.import_module("matplotlib")
    except (ValueError, OSError):
        # Forget the submodules of the failed import, which are incomplete.
        for name in list(sys.modules):
            if name.startswith("matplotlib."):
                del sys.modules[name]
    # Hide the user's settings during the second attempt.
    before: dict[str, str] = {}
    for name in ("MPLBACKEND", "MATPLOTLIBRC"):
        if name in os.environ:
            before[name] = os.environ.pop(name)
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    shipped = Path(spec.origin).with_name("mpl-data")
    os.environ["MATPLOTLIBRC"] = str(shipped / "matplotlibrc")
    try:
        with contextlib.chdir(shipped.parent):
            return importlib.import_module("matplotlib")
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(before)


matplotlib = _load()

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

__all__ = [
    "Axes",
    "Figure",
    "FixedLocator",
    "FuncFormatter",
    "LogLocator",
    "MaxNLocator",
    "NullLocator",
    "colormaps",
    "default_style",
]


@contextlib.contextmanager
def default_style() -> Iterator[None]:
    """Use matplotlib's default style inside the block and restore the user's settings afterwards.

    A `matplotlibrc` may require LaTeX, which is seldom installed, or remove the margins.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
