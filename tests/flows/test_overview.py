"""overview.png is drawn again only if it would show something else."""

import shutil
from pathlib import Path

from PIL import Image

from flows.show.overview import MADE_FROM, draw_overview
from stages.runs.folder import RunFolder


def test_draw_overview__leaves_a_current_picture_as_it_is(own_run: Path) -> None:
    path = draw_overview(RunFolder(own_run), num_epochs=3)
    before = path.stat()

    assert draw_overview(RunFolder(own_run), num_epochs=3) == path

    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_draw_overview__draws_again_what_would_look_different(own_run: Path) -> None:
    path = draw_overview(RunFolder(own_run), num_epochs=3)
    before = path.read_bytes()
    shutil.rmtree(own_run / "metrics/epoch=0002")

    draw_overview(RunFolder(own_run), num_epochs=2)

    assert path.read_bytes() != before


def test_draw_overview__replaces_a_picture_of_an_earlier_version(own_run: Path) -> None:
    path = own_run / "overview.png"
    Image.new("RGB", (8, 8)).save(path)

    draw_overview(RunFolder(own_run), num_epochs=3)

    with Image.open(path) as picture:
        assert picture.size != (8, 8)
        assert len(picture.info[MADE_FROM]) == 64
