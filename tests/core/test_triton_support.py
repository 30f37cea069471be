"""Whether Triton's kernels can run."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch

from deepcluster_core.triton_support import has_triton, missing_for_triton

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    missing_for_triton.cache_clear()
    yield
    missing_for_triton.cache_clear()


def test_has_triton__not_without_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)

    assert missing_for_triton() == "a C compiler, such as gcc"
    assert not has_triton(torch.device("cuda:0"))


def test_has_triton__never_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc")

    assert not has_triton(torch.device("cpu"))
