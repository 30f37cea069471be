"""The module search path, corrected before any module is imported that it could hide.

Only `os` and `sys` are imported here; Python has loaded both before it reads PYTHONPATH.
"""

import os
import sys


def ignore_empty_python_path() -> None:
    """Drop empty entries of PYTHONPATH, which stand for the working folder.

    `export PYTHONPATH=$PYTHONPATH:/some/folder` creates such an entry, and then a file `random.py`
    in the working folder would replace Python's own module. For `python:MODULE:NAME` in a recipe,
    the working folder is searched in any case.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in given if entry]
    if len(kept) == len(given) or not kept:
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    try:
        here = os.getcwd()  # noqa: PTH109  pathlib may be hidden
    except OSError:
        return
    ours = os.path.abspath(os.path.join(__file__, "../../.."))  # noqa: PTH100, PTH118
    if here not in (ours, *map(os.path.abspath, kept)):
        sys.path[:] = [entry for entry in sys.path if entry != here]
