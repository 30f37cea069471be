"""AVIF files as Pillow writes them, beside HEIC. Suffixes: H height, W width, C channels."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pillow_heif
import pytest
from PIL import AvifImagePlugin, Image

from deepcluster_core.artifacts.file_names import INDEX, SKIPPED
from deepcluster_core.artifacts.images import Images
from deepcluster_core.context import Context
from deepcluster_core.data import picture_files
from deepcluster_core.data.decode import decode, upright_size
from deepcluster_core.errors import SourceError
from stages.index import DatasetConfig, index
from tests.support.pictures import file_of, gradient, pixels_of, reason

IMAGE = Image.fromarray(gradient())
NO_DECODER = (
    "AVIF is not supported by the installed Pillow: update it, pip install --upgrade pillow, or "
    "convert it to JPEG"
)


def avif_of(image: Image.Image = IMAGE, **options: object) -> bytes:
    return file_of(image, "AVIF", **({"quality": 95} | options))


def heic() -> bytes:
    file = BytesIO()
    pillow_heif.from_bytes("RGB", IMAGE.size, IMAGE.tobytes()).save(file, quality=90)
    return file.getvalue()


@pytest.fixture
def without_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Pillow's plugin be one that was built without libavif."""
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)


@pytest.fixture
def without_plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Pillow be one of before 11.3, which does not know AVIF."""
    monkeypatch.delitem(Image.OPEN, "AVIF")
    picture_files._plugins.cache_clear()  # pyright: ignore[reportPrivateUsage]
    yield
    picture_files._plugins.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_decode__avif_is_what_pillow_reads(mode: str) -> None:
    data = avif_of(IMAGE.convert(mode))

    for channels, wanted in ((3, "RGB"), (1, "L")):
        decoded = decode(data, channels=channels, shorter_side=None)
        assert (decoded.format, decoded.width, decoded.height) == ("AVIF", 60, 40)
        read = np.asarray(Image.open(BytesIO(data)).convert(wanted))
        np.testing.assert_array_equal(decoded.pixels_HWC.squeeze(), read)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__avif_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_png = file_of(IMAGE, "PNG", exif=exif)
    turned = avif_of(exif=exif)  # last, because it takes the orientation out of `exif`

    assert upright_size(turned) == upright_size(as_png)
    np.testing.assert_allclose(pixels_of(turned).astype(int), pixels_of(as_png), atol=25)


@pytest.mark.usefixtures("without_decoder")
@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"miaf"])
def test_decode__avif_without_a_decoder_names_the_fix(brand: bytes) -> None:
    data = avif_of().replace(b"ftypavif", b"ftyp" + brand, 1)

    assert reason(data) == NO_DECODER


@pytest.mark.usefixtures("without_plugin")
def test_decode__avif_in_an_old_pillow_names_the_fix() -> None:
    assert reason(avif_of()) == NO_DECODER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of AVIF and HEIC files, two of them under the name of the other format."""
    folder = tmp_path / "phone"
    folder.mkdir()
    files = {
        "a.avif": avif_of(),
        "b.AVIF": avif_of(save_all=True, append_images=[IMAGE.rotate(90)]),
        "c.avif": heic(),
        "d.heic": avif_of(),
        "e.heic": heic(),
        "f.avif": avif_of()[:200],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def indexed(folder: Path, out: Path) -> tuple[list[str], dict[str, str]]:
    """Return the images of a folder, and the reasons why the others are skipped."""
    dataset = DatasetConfig(source=folder, encoding="raw", max_skipped_fraction=0.9)
    source = dataset.open_source().fingerprint()
    index.run(dataset=dataset, source=source, out=out, context=Context(seed=1))
    skipped = pd.read_parquet(out / SKIPPED).set_index("path").reason.to_dict()
    return pd.read_parquet(out / INDEX).path.tolist(), skipped


def test_index__a_folder_of_avif_and_heic(folder: Path, tmp_path: Path) -> None:
    images, skipped = indexed(folder, tmp_path / "out")

    assert images == ["a.avif", "b.AVIF", "c.avif", "d.heic", "e.heic"]
    assert skipped == {"f.avif": "truncated file (AVIF)"}
    first_HWC = np.asarray(IMAGE.resize((384, 256), Image.Resampling.BILINEAR)).astype(int)
    stored = Images(tmp_path / "out")
    for image_id in range(5):
        assert np.abs(stored[image_id] - first_HWC).mean() < 8


@pytest.mark.usefixtures("without_decoder", "without_extras")
def test_index__a_folder_of_avif_and_heic_without_decoders(folder: Path, tmp_path: Path) -> None:
    (folder / "g.png").write_bytes(file_of(IMAGE))

    images, skipped = indexed(folder, tmp_path / "out")

    assert images == ["g.png"]
    by_name = {name: text[:4] for name, text in skipped.items()}
    assert by_name == dict(
        zip(
            ["a.avif", "b.AVIF", "c.avif", "d.heic", "e.heic", "f.avif"],
            ["AVIF", "AVIF", "HEIC", "AVIF", "HEIC", "AVIF"],
            strict=True,
        )
    )
    assert skipped["a.avif"] == NO_DECODER
    assert skipped["e.heic"].startswith("HEIC needs the package pillow-heif: pip install")
    (folder / "g.png").unlink()
    with pytest.raises(SourceError, match="AVIF is not supported by the installed Pillow: update"):
        indexed(folder, tmp_path / "none")
