"""Batches of pairs of similar length, shuffled: a short pair never pays for a long one's padding.

The stock Trainer ignores ``group_by_length``. Sorting alone would show the model short questions
first and long ones last, so pairs are shuffled, sorted by length inside large pools, cut into
batches, and the batches are shuffled again. The order is a function of the seed and the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

POOL_BATCHES = 32
"""Batches in a pool that is sorted by length: large enough for little padding, small enough that
batches differ from epoch to epoch."""


def length_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Return the positions 0..len(lengths)-1, each once, in batches of similar length.

    Args:
        lengths: The length of each pair, in any unit.
        batch_size: Pairs a batch; only one batch may be smaller.
        seed: With the epoch it fixes the batches and their order.
        epoch: Number of the pass over the data.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches: list[list[int]] = []
    pool = POOL_BATCHES * batch_size
    for start in range(0, len(order), pool):
        chunk = order[start : start + pool]
        chunk = chunk[np.argsort(sizes[chunk], kind="stable")]
        batches += [chunk[at : at + batch_size].tolist() for at in range(0, len(chunk), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


class LengthBuckets(DefaultBatchSampler):
    """The batch sampler that hands :func:`length_batches` to the Trainer.

    Args:
        dataset: What the Trainer draws from.
        lengths: The length of each of its rows.
        batch_size: Rows a batch.
        seed: Fixes the order, with the epoch that the Trainer sets.
        **unused: What the Trainer passes besides and this order does not need.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        lengths: Sequence[int],
        batch_size: int,
        seed: int = 0,
        **unused: object,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=False, seed=seed)
        if len(lengths) != len(dataset):
            raise ValueError(f"{len(dataset)} rows need as many lengths, but got {len(lengths)}")
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over the batches of the current epoch."""
        return iter(length_batches(self.lengths, self.batch_size, self.seed, self.epoch))

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return -(-len(self.lengths) // self.batch_size)
