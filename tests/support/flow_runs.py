"""Flows called in this process, and what Prefect's server recorded of their tasks."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    TaskRunFilter,
    TaskRunFilterId,
)

from flows.epoch_loop import deepcluster
from flows.prefect_.embedded import TASK_RUNS
from flows.sweep import sweep
from stages.runs.recipe import RecipeOverrides
from tests.support.timeouts import WITHIN_S

KEEP_ALL: dict[str, Any] = {"keep": {"features": None}}
"""Overrides of a recipe that keep the features of all epochs."""
SWEPT_EPOCHS = 2
"""Number of epochs of the runs of `finished_sweep`."""
STAGES = ("extract", "cluster", "train", "score")


def loop(recipe: Path, run: Path, **parameters: object) -> dict[str, str]:
    """Run the whole loop; return the state of each task, as Prefect's server recorded it."""
    return call(deepcluster, recipe=str(recipe), run=str(run), **parameters)


def call(flow: Flow[..., Any], **parameters: object) -> dict[str, str]:
    """Call a flow; return the states of its task runs by name, as the server recorded them."""
    made: list[UUID] = []
    token = TASK_RUNS.set(made)
    try:
        state = flow(**parameters, return_state=True)
    finally:
        TASK_RUNS.reset(token)
    state.result()  # raises the error of a flow that failed
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    with get_client(sync_client=True) as client:
        return recorded_tasks(client, flow_run_id, made)


def recorded_tasks(
    client: SyncPrefectClient, flow_run_id: UUID, made: Collection[UUID] = ()
) -> dict[str, str]:
    """Return task states once all are final: Prefect records them some seconds late.

    Args:
        client: client of the server.
        flow_run_id: the flow run.
        made: task runs to wait for, of which the server may not know yet.
    """
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    wanted = TaskRunFilter(id=TaskRunFilterId(any_=[*made]))  # of flows inside the flow, too
    deadline = time.monotonic() + WITHIN_S
    while True:
        known = client.read_task_runs(task_run_filter=wanted) if made else []
        runs = client.read_task_runs(flow_run_filter=of_run)
        is_complete = runs and len(known) == len(made)
        if is_complete and all(run.state and run.state.is_final() for run in [*known, *runs]):
            return {run.name: run.state.name or "" for run in runs if run.state}
        assert time.monotonic() < deadline, f"not recorded: {runs}"
        time.sleep(0.2)


def states_of_run(name: str) -> dict[str, str]:
    """Return the states of the tasks of the last run of a flow with this name."""
    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=named)
        return recorded_tasks(client, max(found, key=lambda run: str(run.created)).id)


def tasks(*epochs: int) -> set[str]:
    """Return the names of the tasks of these epochs."""
    names: set[str] = set()
    for epoch in epochs:
        names.update(f"{stage} epoch {epoch}" for stage in STAGES)
    return names


def in_state(states: dict[str, str], wanted: str) -> set[str]:
    """Return the names of the tasks that are in a state."""
    return {name for name, state in states.items() if state == wanted}


def swept(
    recipe: Path,
    root: Path,
    *ks: int,
    epochs: int = SWEPT_EPOCHS,
    changes: dict[str, Any] | None = None,
    update: bool = False,
) -> Path:
    """Call the flow of a sweep over k; return the folder of the sweep."""
    overrides = None if changes is None else RecipeOverrides.model_validate(changes)
    return Path(
        sweep(
            list(ks),
            str(recipe),
            run=str(root),
            epochs=epochs,
            overrides=overrides,
            update=update,
        )
    )
