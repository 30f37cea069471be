"""Commands that only look at artifacts must not pay for importing torch."""

import subprocess
import sys

TORCH_FREE = (
    "deepcluster_core.artifacts.commit",
    "deepcluster_core.artifacts.files",
    "deepcluster_core.artifacts.manifest",
    "deepcluster_core.artifacts.resource_errors",
    "deepcluster_core.artifacts.tables",
    "deepcluster_core.shortage",
    "deepcluster_core.text",
)


PROGRAM = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"{name} imports torch")
"""


def test_import__does_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *TORCH_FREE], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
