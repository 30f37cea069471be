"""The cost of table 2: training time of each of its columns at full length, from measured steps.

Each column runs the stage of its evaluation with the shipped protocol, on a random network, over
pictures like VOC's from which nothing can be learnt. Detection proposes its own regions. The first
steps, in which maps of frozen layers are computed and kept, are left out, and so is judging; each
takes minutes. The hours are for one network, and an evaluation compares two.
"""

import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.harness import (
    Result,
    Side,
    Target,
    alternate,
    guarded,
    scratch,
    spread,
)
from benchmarks.options import Options, parser

STEPS = {
    "voc-classification": 48,
    "voc-classification-all": 48,
    "voc-detection": 48,
    "voc-detection-all": 48,
    "voc-segmentation": 6,  # of 20 pictures each, not 2
    "voc-segmentation-all": 6,
}
"""The columns of table 2, and how many steps of each are timed."""
NETWORKS: dict[str, dict[str, Any]] = {
    "alexnet": {"name": "alexnet"},
    "vgg16": {"name": "vgg16"},
}
COUNT = 24
QUICK_DIVISOR = 6
"""With --quick, this many times fewer steps are timed."""
QUICK_S = 100
"""Time budget of the turns with --quick, seconds."""


def main(
    argv: list[str] | None = None,
    *,
    networks: Mapping[str, Mapping[str, Any]] = NETWORKS,
    full_steps: Mapping[str, int] = STEPS,
) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("transfer", __doc__)
    arguments.add_argument(
        "--network", choices=networks, default="alexnet", help="network of the paper"
    )
    given = arguments.parse_args(argv)
    options = Options.of(given)
    divisor = options.size(1, QUICK_DIVISOR)
    steps = {name: num_steps // divisor for name, num_steps in full_steps.items()}
    with scratch(options) as folder:
        tree = {"folder": str(folder), "count": COUNT}
        Side("benchmarks.transfer_sides:write_trees", tree).run()
        # One folder holds the data and the results of all columns.
        shared = {
            "data": str(folder),
            "scratch": str(folder),
            "network": networks[given.network],
            "count": COUNT,
        }
        sides: dict[str, Side] = {}
        for name, num_steps in steps.items():
            side_arguments = shared | {"evaluation": name, "num_steps": num_steps}
            sides[name] = Side("benchmarks.transfer_sides:steps", side_arguments)
        budget_s = options.size(None, QUICK_S)
        runs = alternate(sides, repeats=options.repeats, budget_s=budget_s)
    hours = {name: spread(figures, "hours").median for name, figures in runs.items()}
    targets = [
        Target(f"{given.network}, {name}", column_hours, unit="h")
        for name, column_hours in hours.items()
    ]
    # All columns together are the whole table.
    total_hours = sum(hours.values())
    targets.append(Target(f"{given.network}, table 2, one network", total_hours, unit="h"))
    num_turns = min(map(len, runs.values()))
    Result(
        "transfer",
        targets,
        runs,
        settings={"network": given.network, "steps": steps, "pictures": COUNT},
        notes=[f"{num_turns} of {options.repeats} turns ran."],
    ).report(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
