"""One evaluation of one epoch of a run, or of every run of a sweep, as a Prefect flow."""

from pathlib import Path

from prefect import flow

from flows.engine.evaluation import is_of_each_run, ready, ready_for_each
from flows.engine.flow_names import name_of_flow_run
from flows.engine.sweep import compare
from flows.prefect_.model_parameters import takes_fields_of
from stages.runs.evaluation_request import EvaluationRequest


def _name() -> str:
    """Return the name of the flow run in Prefect's UI, such as `knn epoch 4 of demo`."""
    return name_of_flow_run("name")


@flow(name="deepcluster-evaluate", flow_run_name=_name)
@takes_fields_of(EvaluationRequest)
def evaluate(request: EvaluationRequest) -> str:
    """Evaluate the network of an epoch, or its clusters.

    Returns:
        The folder of the result. For a sweep: `out`, or the folder of the sweep, in which its
        picture and table are updated.
    """
    if is_of_each_run(request):
        return _evaluate_each(request)
    return ready(request).make(request.result or request.name)


def _evaluate_each(request: EvaluationRequest) -> str:
    """Evaluate the same epoch of each run of a sweep separately, and compare the results."""
    prepared = ready_for_each(request)
    root = prepared.sweep.root
    # A flow run for each, so that Prefect's UI shows them as evaluations of their runs.
    for member_request in prepared.requests:
        run = Path(member_request.run).name
        prepared.report.info(f"\n{root.name}/{run}")
        evaluate(**dict(member_request))
    # With `out`, the sweep is only read: its table and picture stay as they are.
    if request.out is not None:
        return request.out
    compare(prepared.sweep, prepared.report)
    return str(root.root)
