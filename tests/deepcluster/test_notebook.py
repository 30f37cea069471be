"""The notebook of the documentation runs from its first cell to its last, without Jupyter."""

import ast
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from tests.support.documentation import DOCS


@pytest.mark.slow
def test_notebook__runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}

    shown = [
        run_cell("".join(cell["source"]), names)
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    ]
    plt.close("all")

    assert (tmp_path / "runs/notebook/metrics/epoch=0001").is_dir()
    assert names["run"].epochs == [0, 1]
    assert names["labels"]["true_label"].nunique() == 10
    shapes = [value for value in shown if isinstance(value, tuple)]
    assert shapes[0] == (2, 256), "the features of two images"
    assert shown[-1].sum() == 1000


def test_notebook__holds_no_outputs() -> None:
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))

    assert not any(cell.get("outputs") for cell in notebook["cells"])


def run_cell(source: str, names: dict[str, Any]) -> Any:  # noqa: ANN401
    """Run a cell; return the value of its last line, which Jupyter would show."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102  our own
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
