import platform
import subprocess
import sys

import pytest

from tests.processors import environment, main

LIBRARIES = """
import faiss, numpy, torch
from numpy._core._multiarray_umath import __cpu_features__
from deepcluster_core.precision import is_narrow
print(torch.backends.cpu.get_cpu_capability(), faiss.SIMDConfig.get_level_name())
print(__cpu_features__["X86_V4"], is_narrow("cpu", "auto"))
"""
FOUND = {"avx2": ["AVX2", "AVX2", "False", "False"], "sse41": ["DEFAULT", "NONE", "False", "False"]}


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="limits of x86-64")
@pytest.mark.parametrize("processor", ["avx2", pytest.param("sse41", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("wrong", [["avx2"], ["z80", "--", "true"]])
def test_main__explains_its_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(wrong) == 2
    assert "COMMAND" in capsys.readouterr().err
