"""Whether Triton's kernels can run."""

import shutil
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

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


def test_missing_for_triton__looks_where_debian_has_the_headers_of_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Debian: the default scheme is /usr/local, where packages go; the headers are in /usr.
    include = {name: tmp_path / name for name in ("posix_local", "posix_prefix")}
    include["posix_prefix"].mkdir()
    include["posix_prefix"].joinpath("Python.h").touch()

    def get_paths(scheme: str = "posix_local") -> dict[str, str]:
        return {"include": str(include[scheme])}

    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(sysconfig, "get_paths", get_paths)

    assert missing_for_triton() is None


def test_has_triton__never_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc")

    assert not has_triton(torch.device("cpu"))
