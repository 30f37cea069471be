from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from deepcluster_core.store_urls import StoreUrl, are_same, parsed_location, typed_location

RIGHT = {
    "s3://bucket/a/b.tar": "s3://bucket/a/b.tar",
    "s3:/bucket/a": "s3://bucket/a",  # as `Path` writes it
    "S3://bucket//a//": "s3://bucket/a",
    "gs://bucket": "gs://bucket",
    "gcs://bucket/x": "gs://bucket/x",
    "az://container/x": "az://container/x",
}
WRONG = {
    "s3://": "names no bucket",
    "s3://key:secret@bucket/x": "holds credentials",
    "s3://bucket/x?versionId=1": "has a query",
    "s3://bucket/*.tar": "give the folder, or a range such as {00000..00127}",
    "s3://bucket/{x}.tar": "neither a range such as {000..127} nor a choice",
    "s3://bucket/{3..1}.tar": "a range that ends before it begins",
    "s3://bucket/{0..999}{0..9999}.tar": "more than 1,000,000 files",
    "s3://bucket/{0..99999999999}.tar": "more than 1,000,000 files",
}


@pytest.mark.parametrize(("text", "normal"), RIGHT.items())
def test_parse__returns_the_normal_form(text: str, normal: str) -> None:
    assert parsed_location(text) == normal
    assert isinstance(parsed_location(Path(text)), Path)


@pytest.mark.parametrize(("text", "said"), WRONG.items())
def test_parse__says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parsed_location(text)

    assert said in str(error.value)
    assert "secret" not in str(error.value)


def test_expanded__is_what_a_shell_writes() -> None:
    url = StoreUrl.parse("s3://b/{train,val}-{08..10}.tar")

    assert url.expanded() == [
        f"s3://b/{split}-{number}.tar"
        for split in ("train", "val")
        for number in ("08", "09", "10")
    ]
    assert StoreUrl.parse("s3://b/{8..10}.tar").expanded()[0] == "s3://b/8.tar"
    assert StoreUrl.parse("s3://b/x.tar").expanded() == ["s3://b/x.tar"]


def test_parts__of_a_url() -> None:
    url = StoreUrl.parse("s3://bucket/a/b.tar")

    assert (url.name, url.suffix, url.key, url.bucket) == (
        "b.tar",
        ".tar",
        "a/b.tar",
        "s3://bucket",
    )
    assert url.parent == "s3://bucket/a"
    assert url.bucket.parent is None
    assert url.bucket.key == ""


def test_are_same__follows_links_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)

    assert are_same(tmp_path / "link", tmp_path)
    assert are_same(StoreUrl("s3://b/x"), StoreUrl("s3://b/x"))
    assert not are_same(StoreUrl("s3://b/x"), tmp_path)


def test_typed_location__is_a_url_of_a_store_or_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")

    assert typed_location("S3://bucket//a.jpg") == StoreUrl("s3://bucket/a.jpg")
    assert typed_location("a.jpg") == Path("a.jpg")
    assert typed_location("~/a.jpg") == Path("/home/someone/a.jpg")


@pytest.mark.parametrize(("text", "said"), WRONG.items())
def test_typed_location__says_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        typed_location(text, "--data")

    assert str(error.value).startswith("--data ")
    assert said in str(error.value)
    assert "secret" not in str(error.value)
