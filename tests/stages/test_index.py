"""Source in, images artifact out."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from deepcluster_core.artifacts.file_names import INDEX, SKIPPED
from deepcluster_core.artifacts.images import Images
from deepcluster_core.artifacts.manifest import (
    Condition,
    Manifest,
    dump_sections,
    inspect,
    read_manifest,
)
from deepcluster_core.artifacts.packing import Encoding
from deepcluster_core.context import Context
from deepcluster_core.data.decode import decode
from deepcluster_core.errors import SourceError
from deepcluster_core.progress import Progress, silent
from stages.index import DatasetConfig
from stages.index import index as stage


def index(
    dataset: DatasetConfig,
    out: Path,
    *,
    seed: int = 31,
    workers: int = 2,
    progress: Progress = silent,
) -> Manifest:
    context = Context(seed=seed, workers=workers, progress=progress)
    stage.run(dataset=dataset, source=dataset.open_source().fingerprint(), out=out, context=context)
    return read_manifest(out)


def table(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / INDEX)


def config(source: Path, **changes: object) -> DatasetConfig:
    values: dict[str, object] = {"shorter_side": 20, "channels": 1, "encoding": "raw"}
    return DatasetConfig.model_validate({"source": source} | values | changes)


@pytest.fixture
def damaged(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Return a source of 40 pictures of which two cannot be read."""
    source = make_images(tmp_path / "damaged", per_class=10)
    (source / "bar" / "002.png").write_bytes(b"not a picture")
    whole = (source / "disc" / "004.png").read_bytes()
    (source / "disc" / "004.png").write_bytes(whole[: len(whole) // 2])
    return source


def test_run__every_image_has_its_row(dataset: DatasetConfig, images: Path) -> None:
    manifest, rows = read_manifest(images), table(images)

    assert inspect(images)[0] is Condition.WHOLE
    assert (manifest.stage, manifest.rows, len(rows)) == ("index", 240, 240)
    assert rows.image_id.tolist() == list(range(240))
    assert rows.path.tolist() == sorted(rows.path), "in the order of paths, on any file system"
    assert (rows.label == rows.path.str.partition("/")[0]).all()
    assert set(rows.format) == {"PNG", "JPEG"}
    assert manifest.facts["labelled"] == 240
    assert manifest.inputs == {"source": dataset.open_source().fingerprint()}
    assert len(pd.read_parquet(images / SKIPPED)) == 0


@pytest.mark.parametrize("encoding", ["raw", "png", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_run__packs_what_the_decoder_gives(
    tiny_images: Path, tmp_path: Path, encoding: Encoding, channels: int
) -> None:
    index(config(tiny_images, encoding=encoding, channels=channels), tmp_path / "out")

    stored, rows = Images(tmp_path / "out"), table(tmp_path / "out")

    for image_id in range(0, 240, 17):
        data = (tiny_images / rows.path.iloc[image_id]).read_bytes()
        expected = decode(data, channels=channels, shorter_side=20)
        np.testing.assert_array_equal(stored[image_id], expected.pixels_HWC)
        assert rows.width.iloc[image_id] == expected.width
        assert rows.height.iloc[image_id] == expected.height


def test_run__packs_jpeg_at_the_quality_asked_for(tiny_images: Path, tmp_path: Path) -> None:
    fine = index(config(tiny_images, encoding="jpeg", jpeg_quality=95), tmp_path / "fine")
    coarse = index(config(tiny_images, encoding="jpeg", jpeg_quality=50), tmp_path / "coarse")

    assert coarse.bytes < fine.bytes
    assert min(Images(tmp_path / "fine")[7].shape[:2]) == 20


@pytest.mark.parametrize("workers", [1, 5])
def test_run__same_digest_with_any_number_of_workers(
    dataset: DatasetConfig, images: Path, tmp_path: Path, workers: int
) -> None:
    again = index(dataset, tmp_path / "out", workers=workers)

    assert (again.digest, again.key) == (read_manifest(images).digest, read_manifest(images).key)


def test_run__labels_none_forgets_the_labels(tiny_images: Path, tmp_path: Path) -> None:
    manifest = index(config(tiny_images, labels="none"), tmp_path / "out")

    assert manifest.facts["labelled"] == 0
    assert Images(tmp_path / "out").true_labels() is None


def test_run__tells_how_far_it_is(dataset: DatasetConfig, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []

    index(dataset, tmp_path / "out", progress=lambda done, total: told.append((done, total)))

    assert told[-1] == (240, 240)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


# Unreadable images


def test_run__leaves_unreadable_images_out_and_names_them(damaged: Path, tmp_path: Path) -> None:
    manifest = index(config(damaged, max_skipped_fraction=0.05), tmp_path / "out")

    skipped, rows = pd.read_parquet(tmp_path / "out" / SKIPPED), table(tmp_path / "out")
    assert skipped.path.tolist() == ["bar/002.png", "disc/004.png"]
    assert "truncated" in skipped.reason.iloc[1]
    assert (manifest.rows, manifest.facts["skipped"]) == (38, 2)
    assert rows.image_id.tolist() == list(range(38)), "image_id has no gaps"
    assert not set(skipped.path) & set(rows.path)


def test_run__refuses_too_many_unreadable_images(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        index(config(damaged, max_skipped_fraction=0.049), tmp_path / "out")

    text = str(error.value)
    assert "2 of 40 images cannot be read" in text
    assert "dataset.max_skipped_fraction = 0.049" in text
    assert "bar/002.png: " in text
    assert str(tmp_path / "out" / SKIPPED) in text
    assert inspect(tmp_path / "out")[0] is Condition.UNFINISHED
    skipped = pd.read_parquet(tmp_path / "out" / SKIPPED)
    assert skipped.path.tolist() == ["bar/002.png", "disc/004.png"], "the list it names"


def test_run__refuses_a_source_without_one_readable_image(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.png").write_bytes(b"not a picture")

    with pytest.raises(SourceError, match="1 of 1 images cannot be read"):
        index(config(source, max_skipped_fraction=1.0), tmp_path / "out")


def test_run__refuses_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n")

    with pytest.raises(SourceError, match=r"list.txt: holds no images"):
        index(config(tmp_path / "list.txt"), tmp_path / "out")


def test_run__a_listed_file_that_is_missing_is_skipped(tiny_images: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_images / "bar" / "000.png", tmp_path / "here.png")
    (tmp_path / "list.txt").write_text("here.png\naway.png\n")

    for encoding in ("raw", "none"):
        listed = config(tmp_path / "list.txt", encoding=encoding, max_skipped_fraction=0.5)
        manifest = index(listed, tmp_path / "out")

        assert (manifest.rows, manifest.facts["skipped"]) == (1, 1)
        assert pd.read_parquet(tmp_path / "out" / SKIPPED).path.tolist() == ["away.png"]


def test_run__encoding_none_needs_a_file_for_each_image(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": b"x", "path": None}, "label": 1}]
    pd.DataFrame(rows).to_parquet(tmp_path / "data.parquet")

    with pytest.raises(SourceError, match=r"encoding: none .*holds many images in one.*\n.*raw"):
        index(config(tmp_path / "data.parquet", encoding="none"), tmp_path / "out")

    assert not (tmp_path / "out").exists(), "refused before anything is touched"


# A subset


def test_run__subset_is_drawn_by_the_seed_and_stays_sorted(
    tiny_images: Path, images: Path, tmp_path: Path
) -> None:
    dataset = config(tiny_images, subset=50)

    once = index(dataset, tmp_path / "1", seed=1)
    again = index(dataset, tmp_path / "2", seed=1, workers=4)
    other = index(dataset, tmp_path / "3", seed=2)

    assert once.rows == 50
    assert once.digest == again.digest
    assert once.digest != other.digest
    paths = table(tmp_path / "1").path.tolist()
    assert paths == sorted(paths)
    assert set(paths) < set(table(images).path)
    assert paths != table(images).path.tolist()[:50], "a draw, not the head"
    assert table(tmp_path / "1").image_id.tolist() == list(range(50))


def test_run__subset_of_all_images_is_all_images(
    tiny_images: Path, images: Path, tmp_path: Path
) -> None:
    subset = index(config(tiny_images, subset=240), tmp_path / "out")

    assert subset.digest == read_manifest(images).digest


def test_run__refuses_a_subset_larger_than_the_source(tiny_images: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"dataset.subset: 241 images .*the source has 240"):
        index(config(tiny_images, subset=241), tmp_path / "out")


# Samples with several pictures


@pytest.fixture
def views(tmp_path: Path) -> Path:
    """Return a tar file of three samples with two pictures and a mask each."""
    data = io.BytesIO()
    Image.new("L", (24, 20), 200).save(data, "PNG")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for n in range(3):
            for extension in ("left.png", "right.png", "seg.png"):
                member = tarfile.TarInfo(f"{n}.{extension}")
                member.size = len(data.getvalue())
                archive.addfile(member, io.BytesIO(data.getvalue()))
    return tmp_path / "x.tar"


def test_run__notes_what_was_left_out_and_decided(views: Path, tmp_path: Path) -> None:
    manifest = index(config(views), tmp_path / "out")

    assert manifest.rows == 6
    left_out, several = manifest.facts["notes"]
    assert left_out == "left out: 3 seg.png"
    assert "3 left.png, 3 right.png" in several


@pytest.mark.parametrize("key", ["left.png", ["left.png"]])
def test_run__image_key_chooses_the_picture(
    views: Path, tmp_path: Path, key: str | list[str]
) -> None:
    index(config(views, image_key=key), tmp_path / "out")

    assert table(tmp_path / "out").path.tolist() == [f"x.tar/{n}.left.png" for n in range(3)]


def test_dataset_config__image_key_is_in_no_key_unless_it_is_given(tmp_path: Path) -> None:
    without = dump_sections({"dataset": config(tmp_path)})["dataset"]
    given = dump_sections({"dataset": config(tmp_path, image_key="jpg")})["dataset"]

    assert "image_key" not in without
    assert given == without | {"image_key": "jpg"}
