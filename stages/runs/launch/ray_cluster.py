"""Print what the machines of a running Ray cluster have, as JSON.

python -m stages.runs.launch.ray_cluster ADDRESS
"""
# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# Ray is an optional dependency.

import json
import os
import sys
from typing import Any


def main(address: str) -> None:
    """Connect to the cluster and print what it has.

    Args:
        address: HOST:PORT.
    """
    import ray  # noqa: PLC0415  optional

    os.chdir("/")  # Ray lets its processes import what is in this folder
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    nodes = [_resources(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    print(json.dumps(nodes))  # noqa: T201


def _resources(resources: dict[str, Any]) -> dict[str, int]:
    return {"cpus": int(resources.get("CPU", 0)), "gpus": int(resources.get("GPU", 0))}


if __name__ == "__main__":
    main(sys.argv[1])
