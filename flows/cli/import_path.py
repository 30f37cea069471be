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
    nothing_to_drop = len(kept) == len(given)
    if nothing_to_drop or not kept:
        return
    # For subprocesses, which read the variable again.
    os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    # For this process, in which Python has put the working folder into the search path.
    try:
        here = os.getcwd()  # noqa: PTH109  pathlib may be hidden
    except OSError:
        return
    ours = os.path.abspath(os.path.join(__file__, "../../.."))  # noqa: PTH100, PTH118
    wanted = [ours, *map(os.path.abspath, kept)]
    if here not in wanted:
        sys.path[:] = [entry for entry in sys.path if entry != here]
