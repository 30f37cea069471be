"""The parts of matplotlib that pictures are drawn with, whatever matplotlib's settings say.

Pictures are drawn to files through `Figure`, so no backend and no pyplot is needed.
"""

# ruff: noqa: E402  the names come from matplotlib once it could be loaded

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    """Import matplotlib, even with settings that make its import fail.

    It raises ValueError for an unknown backend in MPLBACKEND, which a notebook exports to programs
    in which that backend is not installed, and for a `matplotlibrc` that is not text; and OSError
    for one that it may not read. The second attempt uses the file that it ships; the one in the
    working folder has precedence over all others, so that attempt is made from another folder.
    """
    try:
        return importlib.import_module("matplotlib")
    except (ValueError, OSError):
        for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
            del sys.modules[name]  # they refer to the module that could not be imported
    before = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
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
        os.environ.update({name: text for name, text in before.items() if text is not None})


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
    """Draw as matplotlib draws by default, and restore the person's settings afterwards.

    A `matplotlibrc` may ask for LaTeX, which is seldom installed, or cut the margins away.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
