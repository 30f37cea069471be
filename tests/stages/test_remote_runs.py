"""How the URL of a run is recognised; no store is reached."""

from pathlib import Path

import pytest

from deepcluster_core.errors import ConfigError
from stages.runs.locate import run_path
from stages.runs.remote_runs import url_of

DEMO = "s3://bucket/runs/demo"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (DEMO, DEMO),
        (f"{DEMO}/", DEMO),
        (str(Path(DEMO)), DEMO),  # with one slash
        ("gcs://bucket/runs/demo", "gs://bucket/runs/demo"),
        ("az://container/runs/demo", "az://container/runs/demo"),
        ("file:///data/demo", "file:///data/demo"),
        (str(Path("file:///data/demo")), "file:///data/demo"),
        ("demo", None),
        ("runs/demo", None),
        ("/data/s3/demo", None),
    ],
)
def test_url_of__recognises_object_stores(text: str, url: str | None) -> None:
    assert url_of(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "s3://AKIAKEY:sEcReT@bucket/runs/demo",
        "s3:/AKIAKEY:sEcReT@bucket/runs/demo",
        f"{DEMO}?X-Amz-Signature=sEcReT",
    ],
)
def test_url_of__refuses_credentials(text: str) -> None:
    with pytest.raises(ConfigError, match="must not hold credentials") as refused:
        url_of(text)
    assert "sEcReT" not in str(refused.value)


def test_url_of__refuses_what_names_no_folder() -> None:
    with pytest.raises(ConfigError, match="names no folder for a run in the bucket"):
        url_of("s3://bucket")


def test_run_path__another_scheme_is_no_store() -> None:
    with pytest.raises(ConfigError, match="is the address of a remote place"):
        run_path("ftp://host/runs/demo")
