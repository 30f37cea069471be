"""Names that the shell completes, and a correction of the script that zsh loads."""

from collections.abc import Sequence
from pathlib import Path

from typer import _completion_shared as typers

from deepcluster_core.config_files import recipe_names
from deepcluster_core.tracking.registry import TRACKERS
from stages.evaluations.shared.protocol import protocol_names

TABLES = [f"table{number}" for number in range(1, 6)]
ZSH_END = "\ncompdef %(complete_func)s %(prog_name)s\n"
"""The last line of typer's script for zsh."""
ZSH_END_MENDED = """
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  %(complete_func)s "$@"
else
  compdef %(complete_func)s %(prog_name)s
fi
"""


def mend_zsh_completion() -> None:
    """Make the first TAB of a session complete in zsh, too.

    zsh loads the installed file at the first TAB, as the body of the function that completes.
    Typer's script only defines another function then, so that TAB does nothing (typer 0.29).
    """
    scripts = typers._completion_scripts  # pyright: ignore[reportPrivateUsage]
    scripts["zsh"] = scripts["zsh"].replace(ZSH_END, ZSH_END_MENDED)


def complete_recipe(incomplete: str) -> list[str]:
    """Return the recipes, and the files here, that begin as what was typed."""
    return [*_beginning(recipe_names(), incomplete), *_beginning(_files("*.yaml"), incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return the runs in `runs/` that begin as what was typed: their names, or else their paths."""
    runs = _files("runs/*/")
    names = _beginning([Path(run).name for run in runs], incomplete)
    return names or _beginning(runs, incomplete)


def complete_evaluation(incomplete: str) -> list[str]:
    """Return the evaluations and tables that begin as what was typed."""
    return _beginning([*protocol_names(), *TABLES], incomplete)


def complete_tracker(incomplete: str) -> list[str]:
    """Return the trackers that begin as what was typed."""
    return _beginning([*TRACKERS], incomplete)


def _files(pattern: str) -> list[str]:
    return sorted(str(path) for path in Path().glob(pattern))


def _beginning(names: Sequence[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
