"""Batches by length: complete, even in length, and fixed by seed and epoch."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.batching import LengthBuckets, length_batches


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=300),
    st.integers(1, 16),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_batches_hold_every_row_once(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    batches = length_batches(lengths, batch_size, seed, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert sum(len(batch) < batch_size for batch in batches) <= 1


def test_batches_are_even_in_length_and_shuffled() -> None:
    source = random.Random(0)
    lengths = [source.randint(1, 1000) for _ in range(1000)]
    batches = length_batches(lengths, 10, seed=1, epoch=0)
    longest = [max(lengths[row] for row in batch) for batch in batches]
    padded = sum(size * len(batch) for size, batch in zip(longest, batches, strict=True))
    assert padded < 1.1 * sum(lengths)  # random batches: 1.8
    assert longest != sorted(longest)


def test_the_order_follows_seed_and_epoch() -> None:
    lengths = list(range(100))
    first = length_batches(lengths, 8, seed=1, epoch=0)
    assert first == length_batches(lengths, 8, seed=1, epoch=0)
    assert first != length_batches(lengths, 8, seed=1, epoch=1)
    assert first != length_batches(lengths, 8, seed=2, epoch=0)


def test_the_sampler_follows_the_epoch_that_the_trainer_sets() -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"label": [0] * 50})
    sampler = LengthBuckets(rows, lengths=list(range(50)), batch_size=8, seed=3, drop_last=False)
    before = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == length_batches(list(range(50)), 8, 3, 1) != before
    assert len(sampler) == len(before) == 7


def test_the_sampler_wants_a_length_for_each_row() -> None:
    from datasets import Dataset

    with pytest.raises(ValueError, match="2 rows need as many lengths, but got 1"):
        LengthBuckets(Dataset.from_dict({"label": [0, 1]}), lengths=[1], batch_size=1)
