import json
from pathlib import Path

import pytest

from benchmarks import storage, storage_sides
from benchmarks.storage_sides import RAW, write_images, write_rows
from deepcluster_core.artifacts.features import Features
from deepcluster_core.artifacts.images import Images


@pytest.mark.usefixtures("in_this_process")
def test_main__measures_every_format(tmp_path: Path) -> None:
    sizes = storage.Sizes(images=4, rows=512, dim=16)
    out = tmp_path / "out.json"
    arguments = ["--quick", "--repeats", "1", "--json", str(out), "--scratch", str(tmp_path)]

    storage.main(arguments, quick_sizes=sizes)

    targets = json.loads(out.read_text())["targets"]
    assert len(targets) == 4
    assert all(target["value"] > 0 and target["bound"] == 0.8 for target in targets)


def test_sides__hold_the_same_bytes_as_the_plain_file(tmp_path: Path) -> None:
    write_images(str(tmp_path), count=3, side=8, channels=3)
    images = Images(tmp_path / "images")
    assert b"".join(images[i].tobytes() for i in range(3)) == (tmp_path / RAW).read_bytes()

    write_rows(str(tmp_path), rows=3 * storage_sides.BATCH_ROWS, dim=16)
    rows = b"".join(block_BD.tobytes() for block_BD in Features(tmp_path).blocks())
    assert rows == (tmp_path / RAW).read_bytes()
