"""Saves and stops that several ranks agree on."""

import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from deepcluster_core.artifacts.commit import Draft
from deepcluster_core.artifacts.saved import read_saved
from deepcluster_core.context import Context, SaveEvery
from deepcluster_core.interrupts import HeldBack, Interrupted
from deepcluster_core.ranks import Ranks
from deepcluster_core.training.checkpointing import SavePoints
from deepcluster_core.training.epoch import Progress
from deepcluster_core.training.learner import Learner, Sgd
from tests.support.ranks import on_ranks

KEY = "k" * 64
SGD = Sgd(lr=0.1, momentum=0, weight_decay=0)


def points(
    folder: Path, ranks: Ranks, every: SaveEvery, held: HeldBack | None = None
) -> SavePoints:
    context = Context(seed=1, ranks=ranks)
    draft = Draft(folder, KEY, context, read_saved(folder, KEY))
    return SavePoints(draft, every, held or HeldBack())


def learner() -> Learner:
    return Learner(SGD, {"layer": nn.Linear(2, 2)}, seed=0, device="cpu")


def progressed(ranks: Ranks, step: int) -> Progress:
    """Return a progress in which rank r has a loss of 2^r."""
    loss_sum = torch.tensor(2.0**ranks.rank, dtype=torch.float64)
    return Progress(step, 10 * step, loss_sum, ranks)


@pytest.mark.parametrize("asked", [0, 2])
def test_save_points__signal_to_one_rank_stops_all_after_a_save(tmp_path: Path, asked: int) -> None:
    def work(ranks: Ranks) -> tuple[int, int | None]:
        held = HeldBack()
        here = points(tmp_path, ranks, SaveEvery(), held)
        for step in range(1, 9):
            if ranks.rank == asked and step == 5:
                held.signal = signal.SIGTERM
            try:
                here.reached(learner(), step, progressed(ranks, step).facts)
            except Interrupted:
                return step, held.signal
        return -1, None

    assert on_ranks(3, work) == [(5, signal.SIGTERM)] * 3, "as if all had got it"
    saved = read_saved(tmp_path, KEY)
    assert saved is not None
    assert saved.facts == {"learner": "learner", "step": 5, "seen": 50, "loss_sum": 7.0}


def test_save_points__clock_of_the_first_rank_decides(tmp_path: Path) -> None:
    def work(ranks: Ranks) -> list[int]:
        # A save is always due for the others.
        every = SaveEvery(steps=3) if ranks.rank == 0 else SaveEvery(seconds=0)
        here = points(tmp_path, ranks, every)
        saved_steps: list[int] = []
        for step in range(1, 8):

            def facts(step: int = step) -> dict[str, float]:
                saved_steps.append(step)
                return progressed(ranks, step).facts()

            here.reached(learner(), step, facts)
        return saved_steps

    assert on_ranks(2, work) == [[3, 6], [3, 6]]
    names = [path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors"]
    assert names == ["_saved-learner-step=6.safetensors"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_save_points__resume_with_any_number_of_ranks(tmp_path: Path, size: int) -> None:
    def save(ranks: Ranks) -> None:
        here = points(tmp_path, ranks, SaveEvery(steps=1))
        here.reached(learner(), 4, progressed(ranks, 4).facts)

    on_ranks(3, save)

    def resume(ranks: Ranks) -> tuple[int, int, float]:
        facts = points(tmp_path, ranks, SaveEvery()).resume(learner())
        progress = Progress.resumed(facts, "cpu", ranks)
        return progress.step, progress.seen, progress.checked_loss()

    assert on_ranks(size, resume) == [(4, 40, 7.0)] * size
