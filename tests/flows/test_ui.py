"""What Prefect's UI shows of a run beside its tasks."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from benchmarks.synthetic_run import write_run
from deepcluster_core.config_files import CONFIGS
from flows.prefect_.ui import EPOCHS_SHOWN, Ui


@pytest.mark.parametrize(("last", "first"), [(EPOCHS_SHOWN + 2, 3), (4, 0)])
def test_update__shows_the_latest_epochs_so_that_the_last_costs_what_the_first_does(
    last: int, first: int, prefect_server: str, tmp_path: Path
) -> None:
    """Epochs after the one that was made are left from a longer run, and are not shown."""
    epochs = EPOCHS_SHOWN + 3
    folder = write_run(tmp_path / f"to-{last}", CONFIGS / "imagenet-alexnet.yaml", epochs=epochs)

    @flow
    def look() -> None:
        Ui(folder, epochs=epochs).update(last)

    look()

    # The server also has artifacts of other tests, and answers with a part of them.
    of_run = ArtifactFilter(key=ArtifactFilterKey(like_=f"to-{last}-"))
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(artifact_filter=of_run)
    shown = {made.key: str(made.data) for made in artifacts}
    rows = cast("list[dict[str, Any]]", json.loads(shown[f"to-{last}-metrics"]))
    assert [row["epoch"] for row in rows] == list(range(first, last + 1))
    state = shown[f"to-{last}-state"]
    assert f"| labels | {first} | whole |" in state
    assert f"| labels | {last} | whole |" in state
    assert f"| labels | {first - 1} |" not in state
    assert f"| labels | {last + 1} |" not in state
    assert "| images |  | whole |" in state
