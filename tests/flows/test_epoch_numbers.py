"""Epochs of five digits, and folders whose names only look like those of epochs."""

from pathlib import Path

from stages.runs.folder import RunFolder, epoch_of


def test_epoch_of__names_that_are_not_ours() -> None:
    assert epoch_of("epoch=0007") == 7
    assert epoch_of("epoch=12345") == 12_345
    for name in (
        "epoch=7",
        "epoch=00007",
        "epoch=\u00b2",
        "epoch=\u0660\u0660\u0660\u0667",
        "epoch=",
        "x-epoch=0007",
    ):
        assert epoch_of(name) is None, name


def test_run_folder__epochs_are_those_that_it_would_write(tmp_path: Path) -> None:
    for name in ("epoch=0001", "epoch=10000", "epoch=2", "epoch=\u00b2"):
        (tmp_path / "labels" / name).mkdir(parents=True)

    assert RunFolder(tmp_path).epochs("labels") == [1, 10_000]
