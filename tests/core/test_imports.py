"""Commands that only look at artifacts must not pay for importing torch."""

import subprocess
import sys

import pytest

TORCH_FREE = (
    "deepcluster_core.artifacts.commit",
    "deepcluster_core.artifacts.files",
    "deepcluster_core.artifacts.manifest",
    "deepcluster_core.artifacts.resource_errors",
    "deepcluster_core.artifacts.tables",
    "deepcluster_core.shortage",
    "deepcluster_core.text",
)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_import__does_without_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
