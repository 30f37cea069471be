"""The feed benchmark on tiny sizes: its sides in this process."""

from pathlib import Path

import pytest

from benchmarks import feed_sides


def test_sides__fill_slots_and_make_views_of_the_same_images(tmp_path: Path) -> None:
    folder = str(tmp_path / "images")
    feed_sides.pack(folder, 300, (20, 30, 3))

    slots = feed_sides.slots(folder, 2)
    views = feed_sides.views(folder, 2)

    for figures in (slots, views):
        # Two batches of 256 images were timed.
        assert figures["images_per_s"] * figures["seconds"] == pytest.approx(512)
