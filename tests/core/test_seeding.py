import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcluster_core.seeding import derive, numpy_generator, torch_seeded


@given(st.integers(0, 2**64), st.lists(st.text() | st.integers()))
def test_derive__is_a_seed_that_torch_and_numpy_take(seed: int, names: list[str | int]) -> None:
    derived = derive(seed, *names)

    assert 0 <= derived < 2**63
    assert derived == derive(seed, *names)
    torch.Generator().manual_seed(derived)


def test_derive__differs_for_every_consumer() -> None:
    consumers = [
        (seed, epoch, stage, purpose)
        for seed in (0, 1, 31)
        for epoch in range(20)
        for stage in ("cluster", "train")
        for purpose in ("order", "augment", "dropout")
    ]

    assert len({derive(*consumer) for consumer in consumers}) == len(consumers)
    assert derive(1, 23) != derive(12, 3), "numbers do not run into each other"


def test_derive__stays_what_it_was_in_earlier_versions_of_the_program() -> None:
    # Every random number of every run hangs on this; a run could not be gone on with otherwise.
    first_bytes = hashlib.sha256(b"31/4/train/order").digest()[:8]

    assert derive(31, 4, "train", "order") == int.from_bytes(first_bytes, "big") // 2


def test_numpy_generator__is_a_function_of_seed_and_names() -> None:
    once, again = (numpy_generator(31, "index", "subset").random(5) for _ in range(2))

    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, numpy_generator(31, "index", "other").random(5))


def test_torch_seeded__draws_by_its_seed_and_leaves_the_global_generator() -> None:
    before = torch.random.get_rng_state()

    with torch_seeded(5):
        once = torch.rand(3)
    with torch_seeded(5):
        again = torch.rand(3)

    assert torch.equal(once, again)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_torch_seeded__leaves_the_global_generator_also_after_an_error() -> None:
    def break_off() -> None:
        with torch_seeded(5):
            torch.rand(3)
            raise RuntimeError("in the block")

    before = torch.random.get_rng_state()

    with pytest.raises(RuntimeError, match="in the block"):
        break_off()

    assert torch.equal(torch.random.get_rng_state(), before)


def test_torch_seeded__draws_what_manual_seed_draws() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = torch.rand(3)

    with torch_seeded(5):
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("device", "number"), [("cuda:1", 1), ("cuda", 2)])
def test_torch_seeded__seeds_no_other_gpu(
    device: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The generators of CPUs stand in for those of GPUs.
    generators = [torch.Generator() for _ in range(4)]
    before = [generator.get_state() for generator in generators]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)

    with torch_seeded(5, torch.device(device)):
        seeds = [generator.initial_seed() for generator in generators]

    assert seeds[number] == 5
    for other in {0, 1, 2, 3} - {number}:
        assert torch.equal(generators[other].get_state(), before[other])
