"""Paths as people write them."""

from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from deepcluster_core.local_paths import check_is_local, expanded, is_url, missing_hint

REMOTE = [
    "s3://b/x",
    "s3:/b/x",
    "gs://b",
    "az://b",
    "abfs://c@a/x",
    "hdfs://h/x",
    "hf://datasets/x",
    "https://h/x.txt",
    "HTTP://h/x",
    "ssh://h/x",
    "me@host:/x",
    "me@host:~/x",
    "host:/x",
]


@pytest.mark.parametrize("text", REMOTE)
def test_check_is_local__remote_places(text: str) -> None:
    with pytest.raises(ConfigError, match="not supported: only paths on this machine are") as error:
        check_is_local(text, "--run")

    assert str(error.value).startswith(f"--run {text.replace(':/b/x', '://b/x')[:3]}")
    assert "\n  Fix: copy the data here" in str(error.value)


def test_check_is_local__of_a_file_names_its_path() -> None:
    with pytest.raises(ConfigError, match=r"is a URL.\n  Fix: give the path alone: /x/a b."):
        check_is_local("file:///x/a%20b")


@pytest.mark.parametrize("text", ["/s3://b", "a: b", "C:/x", "./s3:/b", "x:y", "", "100%/a:/b"])
def test_is_url__not_of_paths(text: str) -> None:
    assert not is_url(text)


def test_expanded__home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert expanded("~", tmp_path) == tmp_path / "home"
    assert expanded("~/x", tmp_path) == tmp_path / "home/x"
    assert expanded("./~/x", tmp_path) == tmp_path / "~/x"
    assert expanded("~nobody-of-this-name", tmp_path) == tmp_path / "~nobody-of-this-name"
    assert expanded("a~", tmp_path) == tmp_path / "a~"


def test_expanded__a_folder_whose_name_is_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "~").mkdir()

    assert expanded("~", tmp_path) == tmp_path / "~", "there is no other"
    (tmp_path / "home").mkdir()
    with pytest.raises(ConfigError, match="and both exist"):
        expanded("~", tmp_path)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/a/$HOME/x", "variables"),
        ("/a/${DATA}", "variables"),
        ("C:\\x", "Windows"),
        ("/a/C:/x", "Windows"),
        ("\\\\server\\x", "Windows"),
        ("a\\b", "backslashes"),
        ("/a/~nobody/x", "home folder"),
        ('/a/"x"', "quotation marks"),
        ("/a/x ", "blank"),
    ],
)
def test_missing_hint__of_usual_mistakes(path: str, hint: str) -> None:
    assert hint in missing_hint(Path(path))


def test_missing_hint__of_a_plain_path() -> None:
    assert not missing_hint(Path("/a/b c.jpg"))
