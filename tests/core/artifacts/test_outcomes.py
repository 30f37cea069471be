from pathlib import Path

from deepcluster_core.artifacts.images_writer import PackedImage
from deepcluster_core.artifacts.outcomes import Outcome, OutcomeWriter, read_outcomes

PACKED = PackedImage("a/é.png", None, 5, 4, "PNG", 2, 3, b"\0\1\2", colour_copy=b"\3")


def test_read_outcomes__are_those_that_were_written_in_their_groups(tmp_path: Path) -> None:
    groups = [
        [
            Outcome("a/é.png", PACKED, num_pages=3, highest=1.5, is_deep=True),
            Outcome("b.png", reason="is empty"),
        ],
        [Outcome("c.png", reason="is a mask", is_loss=False)],
    ]
    path = tmp_path / "unit-00000.part"
    writer = OutcomeWriter(path)
    for group in groups:
        writer.add(group)
    writer.close()

    assert list(read_outcomes(path)) == groups
