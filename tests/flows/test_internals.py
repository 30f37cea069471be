"""Prefect beside its public interface: used in one module alone, so that versions can differ."""

import ast
from pathlib import Path

from flows.prefect_.internals import migration_files

ROOT = Path(__file__).parents[2]
DOCUMENTED = {
    "prefect",
    "prefect.artifacts",
    "prefect.cache_policies",
    "prefect.client.orchestration",
    "prefect.client.schemas.filters",
    "prefect.client.schemas.objects",
    "prefect.exceptions",
    "prefect.logging",
    "prefect.runtime",
    "prefect.serializers",
    "prefect.settings",
    "prefect.states",
}
"""Modules of https://docs.prefect.io, under API reference."""


def test_product__uses_what_is_documented_but_for_one_module() -> None:
    found = {
        (path.name, node.module)
        for path in (ROOT / "flows").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "prefect"
    }

    assert {module for name, module in found if name != "internals.py"} == DOCUMENTED


def test_migration_files__are_there() -> None:
    assert len(list(migration_files())) > 50
