"""Does our pipeline learn as well as the plain baseline? The demo's recipe with several seeds.

After the last epoch, this measures the NMI of the clusters with the true digits, and how often the
ten nearest neighbours vote for the true digit. The optimisations of our pipeline (packed images,
bfloat16 where supported, folded batch normalisation, float16 features) must not change either.
"""

import statistics
import sys
from pathlib import Path

from benchmarks.digits import write_digits
from benchmarks.harness import (
    Figures,
    Options,
    Result,
    Side,
    Target,
    alternate,
    guarded,
    parser,
    positive,
    scratch,
    spread,
)
from benchmarks.machine import ROOT, num_cores

RECIPE = str(ROOT / "configs" / "demo.yaml")
FIRST_SEED = 31
MEASURES = {"nmi_labels": "NMI with the labels", "neighbours": "10 nearest neighbours"}


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark, print its table and write its JSON file."""
    made = parser("learning", __doc__)
    made.add_argument("--epochs", type=positive, help="else 10, the recipe's; quick 2")
    made.add_argument(
        "--workers", type=positive, default=num_cores(), help="processes that load, of the baseline"
    )
    given = made.parse_args(argv)
    options = Options.of(given)
    epochs = given.epochs or (2 if options.quick else 10)
    runs: dict[str, list[Figures]] = {"baseline": [], "ours": []}
    with scratch(options) as folder:
        count = write_digits(folder / "digits", every=5 if options.quick else 1)
        for seed in range(FIRST_SEED, FIRST_SEED + options.repeats):
            sides = _sides(folder, seed=seed, epochs=epochs, workers=given.workers)
            for name, figures in alternate(sides, repeats=1).items():
                runs[name] += figures
    means = {side: {m: spread(figures, m) for m in MEASURES} for side, figures in runs.items()}
    Result(
        "learning",
        [_agreement(runs, measure, words) for measure, words in MEASURES.items()],
        runs,
        settings={"recipe": Path(RECIPE).name, "images": count, "epochs": epochs},
        headline={
            side: {m: statistics.mean(found.values) for m, found in by.items()}
            for side, by in means.items()
        },
        notes=[f"{options.repeats} seeds of each, {count:,} digits, {epochs} epochs."],
    ).tell(options)


def _sides(folder: Path, *, seed: int, epochs: int, workers: int) -> dict[str, Side]:
    overrides = {"seed": seed, "epochs": epochs, "dataset": {"source": str(folder / "digits")}}
    arguments = {"recipe": RECIPE, "overrides": overrides}
    run = str(folder / f"seed={seed}")
    return {
        "baseline": Side("benchmarks.baseline_sides:learning", {**arguments, "workers": workers}),
        "ours": Side("benchmarks.ours:learning", {**arguments, "run": run}),
    }


def _agreement(runs: dict[str, list[Figures]], measure: str, words: str) -> Target:
    """Compare the difference of the means with the spread that seeds alone make."""
    ours, baseline = (spread(runs[side], measure).values for side in ("ours", "baseline"))
    difference = abs(statistics.mean(ours) - statistics.mean(baseline))
    if len(ours) < 2:
        return Target(f"{words}, difference", difference)
    noise = statistics.stdev(ours) + statistics.stdev(baseline)
    return Target(f"{words}, difference within the spread", difference, noise, at_most=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
