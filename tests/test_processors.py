import platform
import subprocess
import sys

import pytest

from tests.processors import environment, exceeds, main

LIBRARIES = """
import faiss, numpy, torch
from numpy._core._multiarray_umath import __cpu_features__
from deepcluster_core.precision import is_narrow
print(torch.backends.cpu.get_cpu_capability(), faiss.SIMDConfig.get_level_name())
print(__cpu_features__["X86_V4"], is_narrow("cpu", "auto"))
"""
FOUND = {"avx2": ["AVX2", "AVX2", "False", "False"], "sse41": ["DEFAULT", "NONE", "False", "False"]}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="limits of x86-64")
@pytest.mark.parametrize("processor", ["avx2", "sse41"])
def test_environment__libraries_keep_to_it(processor: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES],
        env=environment(processor),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == FOUND[processor]


def test_main__gives_the_exit_code_of_the_command() -> None:
    assert main(["avx2", "--", sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert main(["avx2", "sse41", "--", sys.executable, "-c", ""]) == 0


def test_exceeds__by_the_flags_of_a_processor() -> None:
    zen_3 = {"sse4_1", "avx", "avx2", "fma"}
    assert not exceeds(zen_3, "avx2")
    assert exceeds(zen_3 | {"avx512f", "avx512_bf16"}, "avx2")
    assert exceeds(zen_3 | {"avx_vnni"}, "avx2")
    assert exceeds(zen_3, "sse41")
    assert not exceeds({"sse4_1", "sse4_2"}, "sse41")


def test_main__leaves_out_what_the_processor_does_not_exceed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.processors.cpu_flags", lambda: {"sse4_1", "avx2"})
    fails = ["--", sys.executable, "-c", "raise SystemExit(3)"]

    assert main(["--if-older", "avx2", *fails]) == 0
    assert main(["avx2", *fails]) == 3
    assert main(["--if-older", "avx2", "sse41", *fails]) == 3


@pytest.mark.parametrize("wrong", [["avx2"], ["z80", "--", "true"]])
def test_main__explains_its_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    assert "COMMAND" in capsys.readouterr().err
