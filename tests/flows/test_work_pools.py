"""Files and values for Prefect's work pools, against the templates that Prefect ships with."""

import json
import subprocess
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from deepcluster_core.errors import ConfigError
from stages.runs.estimate import GIB, needs_of
from stages.runs.job_variables import POOLS, PoolType, job_variables
from stages.runs.recipe import load_recipe
from tests.support.documentation import ROOT

DEMO = ROOT / "configs/demo.yaml"


def template_of(pool: str) -> dict[str, Any]:
    """Return the base job template of a pool type; Prefect has those of its packages."""
    views = resources.files("prefect.server.api") / "collections_data/views"
    text = (views / "aggregate-worker-metadata.json").read_text(encoding="utf-8")
    return json.loads(text)[f"prefect-{pool}"][pool]["default_base_job_configuration"]


@pytest.mark.parametrize("pool", POOLS)
def test_job_variables__are_those_of_the_pool(pool: PoolType) -> None:
    template = template_of(pool)

    found = job_variables(load_recipe(DEMO, {"compute": {"threads": 2}}), pool)

    assert found
    known = template["variables"]["properties"]
    assert found.keys() <= known.keys()
    for name, value in found.items():
        assert "string" in str(known[name]), name
        # A variable that no part of the job uses would have no effect.
        is_used = f"{{{{ {name} }}}}" in json.dumps(template["job_configuration"])
        assert is_used or pool == "docker"  # Docker's worker reads them by name
        assert value


def test_job_variables__cover_the_estimate() -> None:
    recipe = load_recipe(DEMO)
    needs = needs_of(recipe, num_images=10_000, device="cpu")

    found = job_variables(recipe, "kubernetes")

    limit = int(found["memory_limit"].removesuffix("Gi"))
    assert needs.memory <= limit * GIB < needs.memory + GIB
    larger = load_recipe(ROOT / "configs/imagenet-alexnet.yaml")
    more = job_variables(larger, "kubernetes", num_images=1_281_167)
    assert int(more["memory_limit"].removesuffix("Gi")) > limit


def test_job_variables__ranks_share_a_container() -> None:
    recipe = load_recipe(DEMO)
    one = job_variables(recipe, "docker", num_gpus=1)
    eight = job_variables(recipe, "docker", num_gpus=8)

    assert int(eight["mem_limit"][:-1]) > 4 * int(one["mem_limit"][:-1])


def test_job_variables__images_that_nobody_can_count(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    recipe = load_recipe(DEMO, {"dataset": {"source": str(tmp_path / "a.tar")}})

    with pytest.raises(ConfigError, match="Fix: say about how many there are: --images"):
        job_variables(recipe, "docker")


def test_containers_file__names_flows() -> None:
    values = yaml.safe_load((ROOT / "prefect-containers.yaml").read_text(encoding="utf-8"))
    own = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))

    names: set[str] = set()
    for deployment in values["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        assert isinstance(getattr(import_module(module), name), Flow)
        assert deployment["version"] == own["deployments"][0]["version"]
        for pool in ("docker", "kubernetes"):
            known = template_of(pool)["variables"]["properties"]
            assert deployment["work_pool"]["job_variables"].keys() <= known.keys()
        names.add(deployment["name"])
    assert len(names) == len(values["deployments"])


def test_dockerfile__copies_what_is_there_and_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    wanted = {line[1:] for line in ignored if line.startswith("!")}
    copied: set[str] = set()
    for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY "):
            copied |= set(line.split()[1:-1])

    assert copied == wanted
    assert all((ROOT / name).exists() for name in copied)


def test_dockerfile__finds_the_client_of_stores_in_the_lock() -> None:
    (line,) = (
        line
        for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if "sed -n" in line
    )
    script = line.split("'")[1]

    found = subprocess.run(
        ["sed", "-n", script, ROOT / "requirements-dev.lock"],
        check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip

    assert found[0].startswith("obstore==")
    assert len(found) > 1
    assert all(line.strip().startswith("--hash=sha256:") for line in found[1:])
