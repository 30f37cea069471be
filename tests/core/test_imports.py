"""Commands must not pay for importing what they do not use."""

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


STEP = """
import sys
from torch import nn
from deepcluster_core.training.learner import Learner, Sgd
import torch

layer = nn.Linear(2, 1)
sgd = Sgd(lr=0.1, momentum=0.9, weight_decay=0.1, trust=float(sys.argv[1]) or None)
learner = Learner(sgd, {"layer": layer}, seed=0, device="cpu")
learner.descend(lambda: layer(torch.ones(1, 2)).sum(), 0)
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("trust", ["0", "0.01"])
def test_training__does_without_torchs_compiler(trust: str) -> None:
    """Its import takes a second, and `torch.optim.SGD` has it before a first step."""
    done = subprocess.run([sys.executable, "-c", STEP, trust], check=False)

    assert done.returncode == 0
