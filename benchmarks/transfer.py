"""The cost of table 2: training time of each of its columns at full length, from measured steps.

Each column runs the stage of its evaluation with the shipped protocol, on a random network, over
pictures like VOC's from which nothing can be learnt. Detection proposes its own regions. The first
steps, in which maps of frozen layers are computed and kept, are left out, and so is judging; each
takes minutes. The hours are for one network, and an evaluation compares two.
"""

import sys

from benchmarks.harness import (
    Options,
    Result,
    Side,
    Target,
    alternate,
    guarded,
    parser,
    scratch,
    spread,
)

STEPS = {
    "voc-classification": 48,
    "voc-classification-all": 48,
    "voc-detection": 48,
    "voc-detection-all": 48,
    "voc-segmentation": 6,  # of 20 pictures each, not 2
    "voc-segmentation-all": 6,
}
"""The columns, and steps that are timed."""
NETWORKS = {"alexnet": {"name": "alexnet"}, "vgg16": {"name": "vgg16"}}
COUNT = 24
QUICK = 6  # times fewer
QUICK_S = 100


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    made = parser("transfer", __doc__)
    made.add_argument("--network", choices=NETWORKS, default="alexnet", help="of the paper")
    given = made.parse_args(argv)
    options = Options.of(given)
    steps = {name: n // QUICK if options.quick else n for name, n in STEPS.items()}
    with scratch(options) as folder:
        tree = {"folder": str(folder), "count": COUNT}
        Side("benchmarks.transfer_sides:write_trees", tree).run()
        shared = {
            "data": str(folder),
            "scratch": str(folder),
            "network": NETWORKS[given.network],
            "count": COUNT,
        }
        sides = {
            name: Side(
                "benchmarks.transfer_sides:steps",
                shared | {"evaluation": name, "num_steps": num_steps},
            )
            for name, num_steps in steps.items()
        }
        budget_s = QUICK_S if options.quick else None
        runs = alternate(sides, repeats=options.repeats, budget_s=budget_s)
    hours = {name: spread(figures, "hours").median for name, figures in runs.items()}
    Result(
        "transfer",
        [
            *(
                Target(f"{given.network}, {name}", value, None, "h")
                for name, value in hours.items()
            ),
            Target(f"{given.network}, table 2, one network", sum(hours.values()), None, "h"),
        ],
        runs,
        settings={"network": given.network, "steps": steps, "pictures": COUNT},
        notes=[f"{min(map(len, runs.values()))} of {options.repeats} turns ran."],
    ).tell(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
