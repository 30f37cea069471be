"""A Ray cluster of two nodes on this machine, which ends when its standard input does.

Prints its address. Run as a program, because Ray starts threads in a process that uses it.
"""
# pyright: reportMissingImports=false

import sys

OBJECT_STORE_BYTES = 80 << 20


def main() -> None:
    """Start the nodes, with one CPU each."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415  optional

    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)  # noqa: T201
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
