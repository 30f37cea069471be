"""Does our pipeline learn as well as the plain baseline? The demo's recipe with several seeds.

After the last epoch, this measures the NMI of the clusters with the true digits, and how often the
ten nearest neighbours vote for the true digit. The optimisations of our pipeline (packed images,
bfloat16 where supported, folded batch normalisation, float16 features) must not change either.

With --grey, the sides are `dataset.encoding: raw` and `grey` instead, on the digits in colours: one
channel, weighed as the network weighs three, must teach as much.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.digits import write_digits
from benchmarks.harness import (
    Figures,
    Result,
    Runs,
    Side,
    Target,
    alternate,
    guarded,
    scratch,
    spread,
)
from benchmarks.machine import ROOT
from benchmarks.options import Options, add_workers, parser, positive

RECIPE = str(ROOT / "configs" / "demo.yaml")
FIRST_SEED = 31
FULL_EPOCHS, QUICK_EPOCHS = 10, 2
MEASURES = {"nmi_labels": "NMI with the labels", "neighbours": "10 nearest neighbours"}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    arguments = parser("learning", __doc__)
    arguments.add_argument(
        "--epochs",
        type=positive,
        help=f"number of epochs (default: {FULL_EPOCHS}, as in the recipe, "
        f"with --quick {QUICK_EPOCHS})",
    )
    arguments.add_argument(
        "--grey", action="store_true", help="compare grey with raw, in place of the baseline"
    )
    add_workers(arguments)
    given = arguments.parse_args(argv)
    options = Options.of(given)
    epochs = given.epochs or options.size(FULL_EPOCHS, QUICK_EPOCHS)
    name, reference, judged = "learning", "baseline", "ours"
    if given.grey:
        name, reference, judged = "learning-grey", "raw", "grey"
    runs: Runs = {reference: [], judged: []}
    with scratch(options) as folder:
        digits = folder / "digits"
        count = write_digits(digits, every=options.size(1, 5), coloured=given.grey)
        # Every seed is a run of its own on both sides.
        for seed in range(FIRST_SEED, FIRST_SEED + options.repeats):
            if given.grey:
                sides = _encodings(folder, seed=seed, epochs=epochs)
            else:
                sides = _sides(folder, seed=seed, epochs=epochs, workers=given.workers)
            for side, figures in alternate(sides, repeats=1).items():
                runs[side] += figures
    Result(
        name,
        [
            agreement(runs[judged], runs[reference], measure, title)
            for measure, title in MEASURES.items()
        ],
        runs,
        settings={"recipe": Path(RECIPE).name, "images": count, "epochs": epochs},
        headline={side: _means(figures) for side, figures in runs.items()},
        notes=[f"{options.repeats} seeds of each, {count:,} digits, {epochs} epochs."],
    ).report(options)


def _sides(folder: Path, *, seed: int, epochs: int, workers: int) -> dict[str, Side]:
    overrides = {"seed": seed, "epochs": epochs, "dataset": {"source": str(folder / "digits")}}
    arguments = {"recipe": RECIPE, "overrides": overrides}
    run = str(folder / f"seed={seed}")
    return {
        "baseline": Side("benchmarks.baseline_sides:learning", {**arguments, "workers": workers}),
        "ours": Side("benchmarks.ours:learning", {**arguments, "run": run}),
    }


def _encodings(folder: Path, *, seed: int, epochs: int) -> dict[str, Side]:
    """Return our side with each of two encodings of the same colour images."""
    sides: dict[str, Side] = {}
    for encoding in ("raw", "grey"):
        dataset = {"source": str(folder / "digits"), "channels": 3, "encoding": encoding}
        overrides = {"seed": seed, "epochs": epochs, "dataset": dataset}
        run = str(folder / f"{encoding}-seed={seed}")
        arguments = {"recipe": RECIPE, "overrides": overrides, "run": run}
        sides[encoding] = Side("benchmarks.ours:learning", arguments)
    return sides


def _means(figures: list[Figures]) -> dict[str, float]:
    """Return the mean of each measure over the seeds."""
    return {measure: statistics.mean(run[measure] for run in figures) for measure in MEASURES}


def agreement(
    ours: Sequence[Figures], baseline: Sequence[Figures], measure: str, title: str
) -> Target:
    """Compare the difference of the means with the spread that seeds alone make."""
    our_values = spread(ours, measure).values
    baseline_values = spread(baseline, measure).values
    difference = abs(statistics.mean(our_values) - statistics.mean(baseline_values))
    if len(our_values) < 2:  # one seed has no spread
        return Target(f"{title}, difference", difference)
    # The seeds of one side differ by chance; sides may differ as much.
    noise = statistics.stdev(our_values) + statistics.stdev(baseline_values)
    return Target(f"{title}, difference within the spread", difference, noise, at_most=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
