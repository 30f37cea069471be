"""float32 means float32: what torch's settings are while products are computed, and afterwards.

They decide how a GPU multiplies. There is none here, so the tests read the settings at the moment
of each product instead of its digits.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepcluster_core import precision as formats
from deepcluster_core.clustering.pca import fit_pca
from deepcluster_core.evaluation.filters.ascent import Ascent, climb, excitement
from deepcluster_core.evaluation.knn import nearest
from deepcluster_core.evaluation.probes.classifiers import Probes, ProbeSgd
from deepcluster_core.evaluation.probes.pooling import Frozen
from deepcluster_core.export import Portable, write_network
from deepcluster_core.features import extract_features
from deepcluster_core.models.build import build_network
from deepcluster_core.models.config import NetworkConfig
from deepcluster_core.models.network import Network
from deepcluster_core.precision import autocast, computed_in, exact_float32, faster_precision
from deepcluster_core.training import epoch
from deepcluster_core.training.heads import Fresh
from deepcluster_core.training.learner import Learner, Sgd

PRODUCTS = ("convolution", "conv2d", "linear", "mm", "addmm", "bmm", "baddbmm")


def settings() -> list[str]:
    """Return torch's own values, conv, rnn and matmul of each library."""
    backends: Any = torch.backends
    owners: list[Any] = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    owners += [backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
    return [owner.fp32_precision for owner in owners]


def are_exact(values: list[str]) -> bool:
    return set(values) <= {"ieee", "none"}


@pytest.fixture
def loose() -> Iterator[list[str]]:
    """Allow every shorter format that there is, as a person's own code may."""
    before = settings()
    backends: Any = torch.backends
    changed: list[Any] = [backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    changed.append(backends.mkldnn.matmul)
    values = [owner.fp32_precision for owner in changed]
    for owner in changed:
        owner.fp32_precision = "tf32"
    yield settings()
    for owner, value in zip(changed, values, strict=True):
        owner.fp32_precision = value
    assert settings() == before


class Seen(TorchDispatchMode):
    """Notes torch's settings at every product of matrices and convolution, backward as well."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, list[list[str]]] = {}

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  torch's signature
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        if name in PRODUCTS or name == "convolution_backward":
            self.at.setdefault(name, []).append(settings())
        return func(*args, **(kwargs or {}))


def test_exact_float32__is_on_inside_and_leaves_nothing_behind(loose: list[str]) -> None:
    assert not are_exact(loose)

    with exact_float32():
        assert are_exact(settings())
        with exact_float32():
            pass
        assert are_exact(settings()), "the outer block still goes on"
    assert settings() == loose


def test_exact_float32__by_default_cudnn_would_round_convolutions() -> None:
    """Guards against a torch whose default, or whose names of settings, have changed."""
    before = settings()
    assert before[0] == "tf32"

    with autocast("cpu", "float32"):
        assert settings()[0] != "tf32"
        assert torch.backends.cudnn.allow_tf32 is False, "the older name can be read, and agrees"
    with pytest.raises(ZeroDivisionError), autocast("cpu", "float32"):
        print(1 / 0)  # noqa: T201  an error leaves nothing behind either
    assert settings() == before
    assert torch.backends.cudnn.allow_tf32 is True


@pytest.mark.parametrize("older", ["high", "medium"])
def test_exact_float32__restores_what_was_set_by_older_names(older: str) -> None:
    before = settings()
    torch.set_float32_matmul_precision(older)
    allowed = settings()
    try:
        assert not are_exact(allowed)
        with exact_float32():
            assert are_exact(settings())
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == older
        assert settings() == allowed
    finally:
        torch.set_float32_matmul_precision("highest")
        backends: Any = torch.backends
        backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision = (
            before[2],
            before[5],
        )
    assert settings() == before


def test_exact_float32__of_several_threads_lasts_until_the_last_one_leaves(
    loose: list[str],
) -> None:
    first_left, entered = threading.Event(), threading.Event()
    found: list[list[str]] = []

    def second() -> None:
        with exact_float32():
            entered.set()
            first_left.wait()
            found.append(settings())

    thread = threading.Thread(target=second)
    with exact_float32():
        thread.start()
        entered.wait()
    first_left.set()  # the block that changed the settings is left first
    thread.join()

    assert all(map(are_exact, found))
    assert found
    assert settings() == loose


SIZE = 16


def smallnet() -> Network:
    config = NetworkConfig(name="smallnet", image_size=SIZE)
    return build_network(config, channels=3, seed=0)


def views(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(count, SIZE, SIZE, 3), dtype=np.uint8)


def extracting(network: Network) -> None:
    found = extract_features(network, [views()], layer=None, device="cpu", precision="float32")
    for _ in found:  # between two batches, others compute as they like
        assert not are_exact(settings())


def training(network: Network) -> None:
    sgd = Sgd(lr=0.05, momentum=0.9, weight_decay=1e-4)
    learner = epoch.PseudoLabelLearner(
        network,
        head=Fresh.drawn(network.output_dim, 2, seed=0),
        sgd=sgd,
        device="cpu",
        dropout_seed=0,
    )
    batch = epoch.Batch((views(),), (1,), np.array([[0, 1, 0, 1]]), None, np.arange(4))
    epoch.train_epoch(learner, [batch], precision="float32", after_step=lambda _progress: None)


def reading_layers(network: Network) -> None:
    frozen = Frozen(network, ["conv1"], size=SIZE, device="cpu", precision="float32")
    frozen(views())


def probing(_network: Network) -> None:
    probes = Probes(
        (6, 5, 3),
        decays=(0.0,),
        sgd=ProbeSgd(0.1, momentum=0.9),
        dropout=0.0,
        seed=5,
        device="cpu",
        precision="float32",
    )
    probes.learn(torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), torch.ones(1, 4, dtype=torch.bool))


def fine_tuning(_network: Network) -> None:
    layer = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 14 * 14, 2))
    sgd = Sgd(0.1, momentum=0.9, weight_decay=0.0, clip_norm=1.0)
    learner = Learner(sgd, {"layer": layer}, seed=0, device="cpu")
    images = torch.randn(2, 3, SIZE, SIZE)
    learner.descend(lambda: layer(images).square().mean(), 0)


def climbing(network: Network) -> None:
    ascent = Ascent(step=20, iterations=1, l2=1e-5, blur_sigma=0.3, blur_every=5)
    target_T = torch.tensor([1])
    network.eval()
    start_TCSS = torch.full((1, 3, SIZE, SIZE), 100.0)
    climb(network, "conv2", target_T, start_TCSS, ascent, stepped=lambda: None)
    excitement(network, "conv2", start_TCSS, target_T)


def projecting(_network: Network) -> None:
    pca = fit_pca([torch.randn(20, 8)], dim=3)
    pca.whiten(torch.randn(5, 8))


def searching(_network: Network) -> None:
    rows_ND = nn.functional.normalize(torch.randn(20, 8))
    nearest(rows_ND[:3], [rows_ND], k=2)


@pytest.mark.parametrize(
    "compute",
    [extracting, training, reading_layers, probing, fine_tuning, climbing, projecting, searching],
)
def test_products__are_all_of_exact_float32(
    compute: Callable[[Network], None], loose: list[str]
) -> None:
    network = smallnet()  # tries itself out once, which is not what is tested

    with Seen() as seen:
        compute(network)

    assert seen.at
    assert [name for name, each in seen.at.items() if not all(map(are_exact, each))] == []
    if compute in (training, fine_tuning, climbing):
        assert "convolution_backward" in seen.at
    assert settings() == loose


def test_write_network__traces_and_checks_in_exact_float32(
    loose: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Portable(smallnet().eval(), None)
    found: list[list[str]] = []
    plain = network.forward

    def noting(images: Tensor) -> Tensor:
        found.append(settings())
        return plain(images)

    monkeypatch.setattr(network, "forward", noting)
    write_network(tmp_path / "n.pt", network, format="torchscript", metadata={}, size=SIZE)

    assert found
    assert all(map(are_exact, found))
    assert settings() == loose


# The faster format


def test_faster_precision__is_measured_where_the_name_of_the_processor_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "_measured", lambda: "measured")
    has_bfloat16: list[bool] = [True]
    monkeypatch.setattr(formats, "_computes_bfloat16", lambda: has_bfloat16[0])
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    assert faster_precision("cpu") == "measured"

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert faster_precision("cpu") == computed_in("cpu", "auto")

    has_bfloat16[0] = False
    assert faster_precision("cpu") == "float32"


def test_measured__takes_the_format_of_the_shorter_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def recorded(device: str, precision: Any) -> Any:  # noqa: ANN401
        begun.append(precision)
        return autocast(device, precision)

    # A clock by which each step in bfloat16 takes one second, and each in float32 two.
    def now() -> float:
        return sum(1 if precision == "bfloat16" else 2 for precision in begun)

    monkeypatch.setattr(formats, "autocast", recorded)
    monkeypatch.setattr(formats.time, "thread_time", now)

    assert formats._measured.__wrapped__() == "bfloat16"  # pyright: ignore[reportPrivateUsage]
    assert begun == ["float32", "bfloat16"] * 4


def test_measured__computes_in_one_thread_and_restores_their_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers: list[int] = []

    def recorded(device: str, precision: Any) -> Any:  # noqa: ANN401
        numbers.append(torch.get_num_threads())
        return autocast(device, precision)

    monkeypatch.setattr(formats, "autocast", recorded)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        formats._measured.__wrapped__()  # pyright: ignore[reportPrivateUsage]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

    assert set(numbers) == {1}
