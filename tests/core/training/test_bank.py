"""The bank. Suffixes: N images, V views, B images of a step, D dims, X = V * D."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from deepcluster_core.artifacts.features import Features, write_features
from deepcluster_core.errors import ConfigError, FeatureError
from deepcluster_core.ranks import ALONE, Ranks, own_rows
from deepcluster_core.training import bank as module
from deepcluster_core.training.bank import Bank
from tests.support.ranks import on_ranks

N, V, D = 10, 2, 3


def written(folder: Path, rows_NX: NDArray[np.floating], *, views: int) -> Path:
    folder.mkdir()
    write_features(folder, iter([rows_NX]), num_images=len(rows_NX), dtype="float32", views=views)
    return folder


def bank_of(ranks: Ranks = ALONE) -> Bank:
    """Return a bank whose rows are -1."""
    rows = N if ranks.rank == 0 else 0
    return Bank(np.full((rows, V * D), -1, np.float16), num_views=V, ranks=ranks)


def embeddings(value: float, num_images: int) -> torch.Tensor:
    """Return embeddings, view after view: `value` in the first view of all, then its negative."""
    of_views = [torch.full((num_images, D), sign * value) for sign in (1, -1)]
    return torch.cat(of_views)


def row(value: float) -> list[float]:
    return [value] * D + [-value] * D


def test_put__image_that_is_not_drawn_keeps_its_row() -> None:
    bank = bank_of()

    bank.put(np.array([3, 7]), embeddings(5, 2))
    bank.flush()

    rows_NX = bank.state().numpy()
    changed_N = (rows_NX != -1).any(axis=1)
    assert np.flatnonzero(changed_N).tolist() == [3, 7]
    assert rows_NX[3].tolist() == rows_NX[7].tolist() == row(5)


def test_put__image_that_is_drawn_twice_has_the_last_row() -> None:
    bank = bank_of()
    # Also twice in one step, at its first and its last place.
    twice = torch.arange(4.0).repeat(V)[:, None].expand(V * 4, D)

    bank.put(np.array([3, 4]), embeddings(5, 2))
    bank.put(np.array([8, 3, 9, 3]), twice)
    bank.put(np.array([4]), embeddings(6, 1))
    bank.flush()

    rows_NX = bank.state().numpy()
    assert rows_NX[3].tolist() == [3.0] * (V * D)
    assert rows_NX[4].tolist() == row(6)


def test_put__steps_beyond_those_held_on_the_device() -> None:
    bank = bank_of()
    for step in range(2 * module.STEPS_HELD + 1):
        bank.put(np.array([step % N]), embeddings(step, 1))
    bank.flush()

    last = 2 * module.STEPS_HELD
    rows_NX = bank.state().numpy()
    for step in range(last - N + 1, last + 1):
        assert rows_NX[step % N].tolist() == row(step)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_put__ranks_fill_the_bank_of_one(size: int) -> None:
    def fill(ranks: Ranks) -> NDArray[np.float16]:
        bank = bank_of(ranks)
        generator = np.random.default_rng(0)
        for _ in range(module.STEPS_HELD + 3):
            # With repetitions. The last rank of five has no image in some steps.
            ids_B = generator.integers(N, size=generator.integers(1, 7))
            values_VBD = torch.from_numpy(generator.standard_normal((V, len(ids_B), D)))
            own = own_rows(len(ids_B), ranks, unit=1)
            part = slice(own.start, own.stop)
            bank.put(ids_B[part], values_VBD[:, part].reshape(-1, D))
        bank.flush()
        return bank.state().numpy()

    one = fill(ALONE)

    found = on_ranks(size, fill)

    np.testing.assert_array_equal(found[0], one)
    assert all(len(rows_NX) == 0 for rows_NX in found[1:]), "the first rank alone holds the rows"


def test_restore__replaces_rows_and_forgets_what_was_held() -> None:
    bank, other = bank_of(), bank_of()
    bank.put(np.array([1]), embeddings(5, 1))
    bank.flush()
    saved = bank.state().clone()
    other.put(np.array([2]), embeddings(6, 1))

    other.restore(saved)
    other.flush()

    assert torch.equal(other.state(), saved)


def test_beginning_with__features_of_one_view_stand_for_all_views(tmp_path: Path) -> None:
    features_ND = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
    folder = written(tmp_path / "features", features_ND, views=1)

    bank = Bank.beginning_with(folder, num_images=N, num_views=V, dim=D, ranks=ALONE)

    expected_NX = np.concatenate([features_ND, features_ND], axis=1).astype(np.float16)
    np.testing.assert_array_equal(bank.state().numpy(), expected_NX)


def test_write__is_read_as_the_next_beginning(tmp_path: Path) -> None:
    bank = bank_of()
    bank.put(np.arange(N), torch.randn(V * N, D))
    bank.flush()
    bank.write(tmp_path)

    again = Bank.beginning_with(tmp_path, num_images=N, num_views=V, dim=D, ranks=ALONE)

    stored = Features(tmp_path)
    assert (stored.views, stored.dim, stored.dtype) == (V, V * D, np.float16)
    assert torch.equal(again.state(), bank.state())


def test_beginning_with__features_that_are_no_embeddings(tmp_path: Path) -> None:
    folder = written(tmp_path / "features", np.zeros((N, 5), np.float32), views=1)

    with pytest.raises(
        FeatureError, match=r"10 images with 5 values, expected 10 with 3.\n.*\n.*F"
    ):
        Bank.beginning_with(folder, num_images=N, num_views=V, dim=D, ranks=ALONE)


def test_beginning_with__no_features() -> None:
    with pytest.raises(ConfigError, match=r"train.prototypes.bank: needs the features"):
        Bank.beginning_with(None, num_images=N, num_views=V, dim=D, ranks=ALONE)
