"""Entry point of the command `deepcluster`: correct the environment, then run the command line.

PYTHONPATH decides which libraries are imported, and libraries read the environment when they are.
Both are therefore corrected before any large library is imported.
"""

# ruff: noqa: PLC0415  this module exists to import others in the right order

from flows.cli.import_path import ignore_empty_python_path


def main() -> None:
    """Run the command."""
    ignore_empty_python_path()
    from flows.engine.environment import prepare

    prepare()
    from flows.cli.main import main as run_command

    run_command()
