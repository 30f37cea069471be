"""The job file: a job and its context as JSON, for the processes that run it as ranks."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.errors import RanksError
from deepcluster_core.progress import Progress
from deepcluster_core.ranks import Ranks
from deepcluster_core.stage import External, Input, Several, StageFunction
from stages.runs.job import Job


@dataclass(frozen=True)
class Surroundings:
    """What all ranks of a launch share besides the job."""

    num_ranks: int
    store: str
    """Where the ranks find each other, see `process_group.joined`."""
    device: str
    """`cpu`, or `cuda` for one GPU of its machine for each rank."""
    workers: int
    """Threads of a rank that read images."""
    threads: int
    """Threads of numerical libraries in a rank."""
    timeout_s: float
    """How long a rank waits for the others, seconds."""
    watches_run: bool
    """Whether a rank ends when the run has not been heard of for a while. Needed where the kernel
    does not see the run: on other machines."""


def job_values(job: Job, context: Context, surroundings: Surroundings) -> dict[str, Any]:
    """Return the JSON values of a job file. All paths in them are absolute."""
    module, name = job.stage.place
    scratch = context.scratch
    return {
        **asdict(surroundings),
        "module": module,
        "stage": name,
        "config": {name: section.model_dump(mode="json") for name, section in job.config.items()},
        "inputs": {name: _to_json(value) for name, value in job.inputs.items()},
        "out": str(job.out.absolute()),
        "seed": job.seed,
        "epoch": job.epoch,
        "key": job.key(),
        "save_every": asdict(context.save_every),
        "feed": context.feed,
        "step": context.step,
        "scratch": None if scratch is None else str(scratch.absolute()),
        "scratch_bytes": context.scratch_bytes,
    }


def job_of(values: Mapping[str, Any]) -> Job:
    """Return the job of a job file.

    Raises:
        RanksError: this process would make a different artifact than the run, because its program
            or the inputs that it sees are different.
    """
    stage: StageFunction[...] = getattr(import_module(values["module"]), values["stage"])
    config = {
        # Strict types accept a list for a tuple, and text for a path, only when they parse JSON.
        name: stage.sections[name].model_validate_json(json.dumps(section))
        for name, section in values["config"].items()
    }
    inputs = {name: _from_json(value) for name, value in values["inputs"].items()}
    job = Job(stage, config, inputs, Path(values["out"]), values["seed"], values["epoch"])
    if job.key() != values["key"]:
        raise RanksError(
            f"{job.out}: a rank would make a different artifact than the run that started it.\n"
            f"  Cause: different versions of this program, or different files under one path on "
            f"two machines\n"
            f"  Fix:   install the same version on all machines, and give them one file system."
        )
    return job


def context_of(
    values: Mapping[str, Any], *, device: str, ranks: Ranks, progress: Progress
) -> Context:
    """Return the context of a job file, for the rank with these ranks on this device."""
    scratch = values["scratch"]
    return Context(
        seed=values["seed"],
        epoch=values["epoch"],
        device=device,
        workers=values["workers"],
        progress=progress,
        save_every=SaveEvery(**values["save_every"]),
        ranks=ranks,
        feed=values["feed"],
        step=values["step"],
        scratch=None if scratch is None else Path(scratch),
        scratch_bytes=values["scratch_bytes"],
    )


def _to_json(value: Input) -> Any:  # noqa: ANN401  JSON
    if isinstance(value, Path):
        return {"path": str(value.absolute())}
    if isinstance(value, External):
        path = str(value.path.absolute())
        return {"external": path, "digest": value.digest, "channels": value.channels}
    if isinstance(value, Several):
        kind = type(value)
        return {"several": [kind.__module__, kind.__qualname__], "artifacts": value.to_json()}
    return value


def _from_json(value: Any) -> Input:  # noqa: ANN401  JSON
    if not isinstance(value, dict):
        return value
    if "path" in value:
        return Path(value["path"])
    if "several" in value:
        module, name = value["several"]
        kind: type[Several] = getattr(import_module(module), name)
        return kind.from_json(value["artifacts"])
    return External(Path(value["external"]), value["digest"], value["channels"])
