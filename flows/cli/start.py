"""The command `deepcluster`: make this process fit, then import and run the command line.

Libraries read the environment when they are imported, and PYTHONPATH decides which ones are, so
both are corrected before any large library is imported.
"""

# ruff: noqa: PLC0415  the order of the imports is what this module is for

from flows.cli.import_path import ignore_empty_python_path


def main() -> None:
    """Run the command."""
    ignore_empty_python_path()
    from flows.engine.environment import prepare

    prepare()
    from flows.cli.main import main as run_command

    run_command()
