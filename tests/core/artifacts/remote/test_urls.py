import pytest

from deepcluster_core.artifacts.remote.urls import is_url, normal_url, without_secrets
from deepcluster_core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/runs/demo", True),
        ("s3:/bucket/runs/demo", True),
        ("GS://bucket/x", True),
        ("az://container/x", True),
        ("runs/demo", False),
        ("https://example.com/x", False),
        ("s3", False),
    ],
)
def test_is_url__stores_only(text: str, expected: bool) -> None:
    assert is_url(text) is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket//runs/demo/", "s3://bucket/runs/demo"),
        ("s3:/bucket/runs/demo", "s3://bucket/runs/demo"),
        ("s3a://key:secret@bucket/runs/demo?X-Amz-Signature=1", "s3://bucket/runs/demo"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("file:///tmp/a", "file:///tmp/a"),
    ],
)
def test_normal_url__one_spelling(url: str, expected: str) -> None:
    assert normal_url(url) == expected
    assert normal_url(expected) == expected


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3:///runs", "http://host/x", "s3://b/../x", "runs/demo", "s3://"]
)
def test_normal_url__not_usable(url: str) -> None:
    with pytest.raises(ConfigError, match="Fix:"):
        normal_url(url)


def test_normal_url__error_hides_the_password() -> None:
    with pytest.raises(ConfigError) as raised:
        normal_url("http://user:hunter2@host/x?X-Amz-Signature=abc123")

    assert "hunter2" not in str(raised.value)
    assert "abc123" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "GET http://user:SECRET@host/x failed",
        "https://host/x?X-Amz-Credential=SECRET&X-Amz-Signature=SECRET&partNumber=1",
        "https://account.blob/x?sv=1&sig=SECRET",
        "Authorization: AWS4-HMAC-SHA256 SECRET, and more",
        "authorization: Bearer SECRET",
        "AccountKey=SECRET;EndpointSuffix=x",
    ],
)
def test_without_secrets__removes(text: str) -> None:
    assert "SECRET" not in without_secrets(text)


def test_without_secrets__leaves_other_text() -> None:
    text = "s3://bucket/runs/demo: cannot be reached.\n  Cause: http://127.0.0.1:9/x?list-type=2"

    assert without_secrets(text) == text
