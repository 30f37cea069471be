"""Readers answer any bytes with a value or with an error that tells people what to do.

What once went wrong, or could, is kept in `corpus/` and tried in every run. The fuzzer, which is
slow, puts what it finds there too: commit it together with the repair.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.readers import CORPUS, READERS, Reader
from tests.support.whole_files import whole_files

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10"))
"""For each reader."""
HANGS_S = 120.0
"""For a file of some kilobytes; one that takes longer grows with something else than its size."""
NAMES = sorted(READERS)

Seeds = dict[str, list[bytes]]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Seeds:
    """Return files as they should be, by reader, and what the corpus has for it."""
    whole = whole_files(tmp_path_factory.mktemp("whole"), tiny_images)
    return {
        name: whole[name] + [path.read_bytes() for path in reader.corpus()]
        for name, reader in READERS.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_reader__takes_the_files_that_are_right(name: str, seeds: Seeds, tmp_path: Path) -> None:
    reader = READERS[name]
    path = tmp_path / reader.file
    path.write_bytes(seeds[name][0])
    if name == "labels":  # beside it lie the centroids
        (tmp_path / READERS["clustering"].file).write_bytes(seeds["clustering"][0])

    reader.read(path)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: path.name)
def test_reader__answers_what_the_corpus_holds(path: Path, tmp_path: Path) -> None:
    READERS[path.parent.name].try_bytes(path.read_bytes(), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_reader__answers_files_that_are_cut_or_empty(
    name: str, seeds: Seeds, tmp_path: Path
) -> None:
    data = seeds[name][0]
    for end in {0, 1, 4, 8, len(data) // 3, len(data) // 2, len(data) - 1}:
        READERS[name].try_bytes(data[:end], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_reader__answers_whatever_the_fuzzer_finds(name: str, seeds: Seeds, tmp_path: Path) -> None:
    reader, chance = READERS[name], np.random.default_rng(int.from_bytes(name.encode()))
    end = time.monotonic() + SECONDS
    while (begun := time.monotonic()) < end:
        data = mutated(seeds[name], reader, chance)
        try:
            reader.try_bytes(data, tmp_path)
            assert time.monotonic() - begun < HANGS_S, "hangs"
        except Exception as error:
            pytest.fail(f"{kept(data, reader)}: {type(error).__name__}: {error}")


def kept(data: bytes, reader: Reader) -> Path:
    """Put bytes into the corpus of a reader."""
    path = CORPUS / reader.name / f"found-{hashlib.sha256(data).hexdigest()[:8]}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def mutated(seeds: list[bytes], reader: Reader, chance: np.random.Generator) -> bytes:
    """Return one of the seeds with some bytes changed, moved, repeated, lost or put in."""
    data = bytearray(seeds[chance.integers(len(seeds))])
    tokens = reader.tokens or (b"\0", b"\xff" * 8)
    for _ in range(chance.integers(1, 6)):
        start, end = sorted(int(n) for n in chance.integers(0, len(data) + 1, size=2))
        short = slice(start, min(end, start + int(chance.integers(1, 64))))
        match int(chance.integers(7)):
            case 0:
                data[start : start + 1] = chance.bytes(1)
            case 1:
                data[short] = chance.bytes(short.stop - short.start)
            case 2:
                del data[short]
            case 3:
                data[end:end] = data[short] * int(chance.integers(1, 9))
            case 4:
                other = seeds[chance.integers(len(seeds))]
                data[start:end] = other[start:end]
            case 5:
                del data[end:]
            case _:
                data[start:start] = tokens[chance.integers(len(tokens))]
    return bytes(data)
