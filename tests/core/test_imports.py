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
import numpy as np
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.training.epoch import Batch, PseudoLabelLearner, train_epoch
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Sgd

network = build_network(NetworkConfig(name="smallnet", image_size=16), channels=3, seed=0)
learner = PseudoLabelLearner(
    network,
    head=Fresh.drawn(network.output_dim, 2, seed=0),
    sgd=Sgd(lr=0.1, momentum=0.9, weight_decay=0.1, trust=float(sys.argv[1]) or None),
    device="cpu",
    dropout_seed=0,
)
ids_B = np.arange(2)
batch = Batch((np.zeros((2, 16, 16, 3), np.uint8),), (1,), ids_B[None], None, ids_B)
train_epoch(learner, [batch], precision="float32", after_step=lambda _: None)
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("trust", ["0", "0.01"])
def test_training__does_without_torchs_compiler(trust: str) -> None:
    """Its import takes a second, and `torch.optim.SGD` has it before a first step."""
    done = subprocess.run([sys.executable, "-c", STEP, trust], check=False)

    assert done.returncode == 0
