"""What Prefect's UI shows of a run beside its tasks."""

import json
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.client.orchestration import get_client

from benchmarks.synthetic_run import write_run
from deepcluster_core.config_files import CONFIGS
from flows.prefect_.ui import EPOCHS_SHOWN, Ui


def test_update__shows_the_latest_epochs_so_that_the_last_costs_what_the_first_does(
    prefect_server: str, tmp_path: Path
) -> None:
    epochs = EPOCHS_SHOWN + 3
    folder = write_run(tmp_path / "long", CONFIGS / "imagenet-alexnet.yaml", epochs=epochs)

    @flow
    def look() -> None:
        Ui(folder, epochs=epochs).update(epochs - 1)

    look()

    with get_client(sync_client=True) as client:
        shown = {made.key: str(made.data) for made in client.read_artifacts()}
    rows = cast("list[dict[str, Any]]", json.loads(shown["long-metrics"]))
    assert [row["epoch"] for row in rows] == list(range(3, epochs))
    assert "| labels | 3 | whole |" in shown["long-state"]
    assert "| labels | 2 |" not in shown["long-state"]
    assert "| images |  | whole |" in shown["long-state"]
