"""A run on an object store against the same run on this machine: time and requests.

The demo, as the command `deepcluster run`, with few training steps an epoch, so that what is
published weighs more than it does in a real run. The store is a SeaweedFS server on this machine,
behind a proxy that delays every request and passes no more bytes in a second than a link would.

- "made": a new run; what counts is the time that an epoch takes longer than in a local run, beside
  the time that its bytes take on the link.
- "cached": the same command again.
- Requests of an epoch are counted by the proxy, while a run grows by more epochs.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from benchmarks.harness import Result, Runs, Side, Target, guarded, log, scratch, spread
from benchmarks.options import Options, parser
from tests.support.object_stores import environment_of, object_store
from tests.support.store_proxy import Request, StoreProxy, store_proxy

EPOCHS, QUICK_EPOCHS = 10, 2
LATENCY_S, BYTES_PER_S = 0.030, 125e6
"""A store at 30 ms, by a link of 1 Gbit/s."""
ADDED_BOUND_S, CACHED_BOUND_S = 3.0, 5.0
SMALL_FILES, MANIFESTS, PRUNED = 6, 4, 2
"""Requests of an epoch beside the shards of its features: other files, manifests, and those that
delete the features of an earlier epoch."""
MORE_EPOCHS = 2
"""Epochs by which a run grows while requests are counted."""
FEW_STEPS = ("train.reassign_every=0.1", "train.lr=0.001")
"""Training so short that it changes the network little; with the usual rate it would collapse."""


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    options = Options.of(parser("remote", __doc__).parse_args(argv))
    epochs = options.size(EPOCHS, QUICK_EPOCHS)
    runs: Runs = {"made, local": [], "made, remote": [], "cached, local": [], "cached, remote": []}
    with (
        scratch(options) as folder,
        object_store("seaweedfs", folder) as server,
        store_proxy("127.0.0.1", server.port) as proxy,
    ):
        proxy.latency_s, proxy.bytes_per_s = LATENCY_S, BYTES_PER_S
        for turn in range(options.repeats):
            for kind in ("made", "cached"):
                for where in ("local", "remote"):
                    run = _place(where, turn, folder)
                    side = _side(run, folder, proxy, epochs, cached=kind == "cached")
                    figures = side.run()
                    runs[f"{kind}, {where}"].append(figures)
                    seconds = figures["seconds"]
                    log(f"  turn {turn + 1} of {options.repeats}, {kind}, {where}: {seconds:.1f} s")
        written_bytes = _bytes_of(folder / "local-0")
        requests = _requests_of_an_epoch(_place("remote", 0, folder), folder, proxy, epochs)
        shards = len(list(folder.glob(f"local-0/features/epoch={epochs - 1:04d}/**/c/*/0")))

    def longer_s(kind: str) -> float:
        return spread(runs[f"{kind}, remote"]).median - spread(runs[f"{kind}, local"]).median

    link_s = written_bytes / BYTES_PER_S / epochs
    bound = shards + SMALL_FILES + MANIFESTS + PRUNED
    Result(
        "remote",
        [
            _seconds("added to an epoch", longer_s("made") / epochs, ADDED_BOUND_S + link_s),
            _seconds(f"cached, {epochs} epochs, added", longer_s("cached"), CACHED_BOUND_S),
            Target("requests of an epoch", requests["all"], bound, at_most=True),
            Target("lists of an epoch", requests["lists"], 0, at_most=True),
        ],
        runs,
        settings={
            "epochs": epochs,
            "latency_s": LATENCY_S,
            "bytes_per_s": BYTES_PER_S,
            "bytes_of_an_epoch": round(written_bytes / epochs),
            "shards": shards,
        },
        notes=[f"The bytes of an epoch take {link_s:.2f} s on the link."],
    ).report(options)


def _seconds(what: str, value_s: float, bound_s: float) -> Target:
    return Target(what, value_s, bound_s, "s", at_most=True)


def _place(where: str, turn: int, folder: Path) -> str:
    return str(folder / f"local-{turn}") if where == "local" else f"s3://bucket/runs-{turn}/demo"


def _side(run: str, folder: Path, proxy: StoreProxy, epochs: int, *, cached: bool) -> Side:
    arguments: dict[str, Any] = {
        "run": run,
        "home": str(folder / "prefect"),
        "settings": [*FEW_STEPS, f"epochs={epochs}", f"compute.scratch={folder / 'scratch'}"],
        "cached": cached,
        "environment": environment_of(proxy.address),
    }
    return Side("benchmarks.command:timed_run", arguments)


def _bytes_of(run: Path) -> int:
    """Return the bytes of all artifacts of a run; features that were deleted are not counted."""
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


def _requests_of_an_epoch(
    run: str, folder: Path, proxy: StoreProxy, epochs: int
) -> dict[str, float]:
    """Return the requests of an epoch while a run grows by some, and how many of them list."""
    proxy.forget()
    _side(run, folder, proxy, epochs + MORE_EPOCHS, cached=False).run()
    num_requests, num_lists = count_requests(proxy.requests, first=epochs)
    assert num_requests > 0
    return {"all": num_requests / MORE_EPOCHS, "lists": num_lists / MORE_EPOCHS}


def count_requests(requests: Iterable[Request], *, first: int) -> tuple[int, int]:
    """Return how many requests made new epochs, and how many of them listed objects.

    The manifests of earlier epochs are compared when the command starts, which is not counted; that
    their features are deleted is.

    Args:
        requests: the requests of a command, in order.
        first: the first new epoch.
    """
    num_requests = num_lists = 0
    for request in requests:
        # Clients write the equals sign as %3D.
        found = re.search(r"/epoch=(\d{4})/", unquote(request.path))
        is_new = found is not None and int(found[1]) >= first
        if found is not None and (is_new or request.method in ("PUT", "DELETE", "POST")):
            num_requests += 1
        # Before the first epoch is written, the runs on the store are looked for.
        num_lists += request.method == "LIST" and num_requests > 0
    return num_requests, num_lists


if __name__ == "__main__":
    sys.exit(guarded(main))
