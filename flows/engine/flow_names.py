"""Names of flow runs in Prefect's UI."""

from pathlib import Path

from prefect.runtime import flow_run


def name_of_flow_run(subject: str) -> str:
    """Return the name of the current flow run, such as `train epoch 4 of demo`.

    Args:
        subject: the parameter of the flow that says what is made.
    """
    parameters = flow_run.parameters
    name = parameters[subject]
    if parameters.get("epoch") is not None:
        name += f" epoch {parameters['epoch']}"
    run = Path(parameters["run"]).name
    return f"{name} of {run}"
