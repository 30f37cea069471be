from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pictures import PHOTOGRAPHS, write_pictures


def test_write_pictures__sizes_and_contents_are_those_of_photographs(pictures: Path) -> None:
    paths = sorted(pictures.rglob("*.jpg"))

    assert len(paths) == 24
    assert {path.parent.name for path in paths} == set(PHOTOGRAPHS)
    sides: set[tuple[int, int]] = set()
    for path in paths:
        picture = Image.open(path)
        sides.add(picture.size)
        grey = np.asarray(picture.convert("L"), np.float32)
        steps = np.abs(np.diff(grey)).mean()
        assert 375 <= min(picture.size) <= max(picture.size) <= 500
        assert picture.entropy() > 4, "bits a pixel: flat colour has 0"
        assert grey.std() > 20
        # Neighbouring pixels of a photograph are alike; of noise they differ as any two do.
        assert steps < grey.std() / 2
        assert 10_000 < path.stat().st_size < 150_000
    assert len(sides) > 20, "of random sizes"


def test_write_pictures__same_seed_same_bytes(pictures: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_pictures(tmp_path / str(seed), count=3, seed=seed)

    def contents(folder: Path) -> list[bytes]:
        found = folder.rglob("*.jpg")
        return [path.read_bytes() for path in sorted(found, key=lambda path: path.name)][:3]

    assert contents(tmp_path / "0") == contents(pictures)
    assert not set(contents(tmp_path / "1")) & set(contents(pictures))
