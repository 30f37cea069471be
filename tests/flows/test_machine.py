"""Which device a run computes on, and what is reported about it.

There is no GPU here: the files of the driver are drawn under a temporary folder, and what torch
finds is replaced.
"""

import subprocess
from pathlib import Path

import pytest
import torch

from deepcluster_core import triton_support
from deepcluster_core.clustering import faiss_index
from deepcluster_core.errors import ConfigError
from stages.runs import machine
from stages.runs.machine import remarks, usable_device
from stages.runs.past_run import PastRun

VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 12.2.0\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver.\nMore lines."
)


class Gpus:
    """What the driver and torch would show."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.dev, self.patch = root / "proc", root / "dev", monkeypatch
        self.dev.mkdir()
        monkeypatch.setattr(machine, "PROC", self.proc)
        monkeypatch.setattr(machine, "DEV", self.dev)
        monkeypatch.setattr(machine, "cpu_quota", lambda: None)
        monkeypatch.setattr(machine.shutil, "which", lambda _name: None)
        monkeypatch.setattr(torch.cuda, "init", self._init)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.torch_finds(0)
        self.words = TOO_OLD
        self.triton_lacks(None)
        machine._asked.cache_clear()  # pyright: ignore[reportPrivateUsage]

    def _init(self) -> None:
        raise RuntimeError(self.words)

    def torch_finds(self, count: int) -> None:
        self.patch.setattr(torch.cuda, "is_available", lambda: count > 0)
        self.patch.setattr(torch.cuda, "device_count", lambda: count)

    def triton_lacks(self, what: str | None) -> None:
        self.patch.setattr(triton_support, "missing_for_triton", lambda: what)

    def driver(self, text: str = VERSION) -> None:
        self.proc.mkdir()
        (self.proc / "version").write_text(text)

    def device(self, name: str = "nvidia0") -> None:
        (self.dev / name).touch()


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return Gpus(tmp_path, monkeypatch)


def warnings(wanted: str = "auto", *, uses_faiss: bool = False) -> str:
    return "\n".join(remarks(wanted, uses_faiss=uses_faiss))


@pytest.mark.parametrize(("text", "version"), [(VERSION, "535.104.05"), (OPEN, "570.86.15")])
def test_remarks__of_a_driver_that_is_too_old(text: str, version: str, gpus: Gpus) -> None:
    gpus.driver(text)
    gpus.device()

    said = warnings()

    assert usable_device("auto") == "cpu"
    assert (
        f"computing on the CPU, although this machine has an NVIDIA GPU (driver {version})" in said
    )
    assert torch.__version__ in said
    assert "driver on your system is too old (found version 12020)" in said
    assert "More lines" not in said
    assert "compute.device=cpu" in said
    assert warnings("cpu") == "", "on purpose"


def test_remarks__of_a_torch_without_cuda(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.driver()
    gpus.device()
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)

    said = warnings()

    assert "was built without CUDA; the driver is 535.104.05" in said
    assert "pytorch.org" in said


def test_remarks__of_a_container_that_was_not_given_the_gpu(gpus: Gpus) -> None:
    gpus.driver()
    assert "docker run --gpus all" in warnings()


@pytest.mark.parametrize("value", ["7", "GPU-0000"])
def test_remarks__of_a_variable_that_names_no_gpu(
    value: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.driver()
    gpus.device()
    gpus.words = "No CUDA GPUs are available"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)

    assert f"CUDA_VISIBLE_DEVICES='{value}' shows no GPU" in warnings()


@pytest.mark.parametrize("value", ["", "-1"])
def test_remarks__nothing_where_gpus_are_hidden_on_purpose(
    value: str, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.driver()
    gpus.device()
    gpus.words = "No CUDA GPUs are available"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)

    assert warnings() == ""
    with pytest.raises(ConfigError, match=r"CUDA_VISIBLE_DEVICES='.*' shows no GPU"):
        usable_device("cuda")


def test_remarks__nothing_without_a_gpu_or_with_one_that_is_used(gpus: Gpus) -> None:
    assert warnings(uses_faiss=True) == ""
    gpus.driver()
    (gpus.proc / "gpus").mkdir()
    assert warnings() == "", "a driver without a GPU"
    gpus.device()
    (gpus.proc / "gpus" / "0000:01:00.0").mkdir()
    assert "although this machine has an NVIDIA GPU" in warnings()
    gpus.torch_finds(1)
    assert usable_device("auto") == "cuda"
    assert warnings() == ""


def test_remarks__of_kernels_that_cannot_be_compiled(gpus: Gpus) -> None:
    gpus.torch_finds(1)
    gpus.triton_lacks("a C compiler, such as gcc")

    assert "slower than they could be on cuda: Triton's kernels need a C compiler" in warnings()
    assert warnings("cpu") == ""


def test_remarks__asks_nvidia_smi_where_the_kernel_says_nothing(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.device("dxg")  # WSL
    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/lib/wsl/lib/{name}")

    def asked(command: list[str], **_settings: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "531.14\n531.14\n", "")

    monkeypatch.setattr(machine.subprocess, "run", asked)
    assert "driver 531.14" in warnings()


@pytest.mark.parametrize(
    ("count", "wanted", "named"),
    [
        (0, "cuda", "no usable CUDA device."),
        (1, "cuda:1", "1 usable CUDA device, cuda:0."),
        (2, "cuda:7", "2 usable CUDA devices, cuda:0 to cuda:1."),
    ],
)
def test_usable_device__names_what_is_there(
    count: int, wanted: str, named: str, gpus: Gpus
) -> None:
    gpus.torch_finds(count)
    with pytest.raises(ConfigError) as refused:
        usable_device(wanted)
    assert f"compute.device: {wanted} asked for, but this machine has {named}\n" in str(
        refused.value
    )
    assert "Fix: --set compute.device=cpu" in str(refused.value)


def test_remarks__of_a_faiss_that_cannot_use_the_gpu(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus.torch_finds(2)
    monkeypatch.setattr(faiss_index, "_num_gpus", lambda: 0)

    said = warnings("cuda:1", uses_faiss=True)

    assert "cannot use cuda:1" in said
    assert "torch searches on cuda:1" in said
    assert warnings("cuda:1") == "", "nothing is clustered"
    assert warnings("cpu", uses_faiss=True) == ""


def test_remarks__of_a_missing_faiss(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)

    assert "faiss, which cannot be imported" in warnings(uses_faiss=True)
    assert warnings() == ""
    assert gpus


def test_remarks__of_a_quota(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setattr(machine, "num_cores", lambda: 2)
    assert "using 2 threads" in warnings()
    assert "1.5 cores' time" in warnings()
    assert gpus


def test_device__of_a_run_from_a_machine_with_a_gpu(own_run: Path, gpus: Gpus) -> None:
    config = own_run / "config.yaml"
    config.write_text(config.read_text().replace("device: auto", "device: cuda"))
    gpus.torch_finds(0)

    with pytest.raises(ConfigError) as refused:
        _ = PastRun.open(str(own_run)).device

    assert f"`device: auto` in the section `compute` of {config}" in str(refused.value)
    assert "--set" not in str(refused.value), "the commands that read a run have none"
