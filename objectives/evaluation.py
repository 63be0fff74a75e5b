"""Scoring an encoder on labelled pairs, the same way for every trial.

Each text is encoded once, however many pairs it is in; similarity is the cosine, computed in
float64 and rounded to float32. So a similarity that is kept (``objectives.scores``) is the very one
that was measured. Only encoding needs torch: vectors that come from elsewhere are scored without
it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from objectives.metrics import roc_auc, summarise
from objectives.pairs import Pairs

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Matrix = NDArray[np.float32]

Similarities = NDArray[np.float32]

_BLOCK = 1024
"""Pairs whose vectors are copied to float64 at a time: those of 60,000 pairs with 1,024 dimensions
would otherwise take 2 GiB beside the vectors themselves."""

BATCH = {"cpu": 64, "cuda": 512}
"""Texts a batch when encoding. On one core 32 to 256 differ by less than a tenth."""


@dataclass(frozen=True)
class Texts:
    """The texts of some pairs without repeats, in the order of their first appearance.

    Attributes:
        texts: The distinct texts. Those of a prefix of the pairs are a prefix of these.
        first: Position in ``texts`` of each pair's first text.
        second: Position in ``texts`` of each pair's second text.
        labels: 1 or 0 for each pair.
    """

    texts: tuple[str, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    labels: tuple[int, ...]

    @classmethod
    def of(cls, pairs: Pairs) -> Texts:
        """Return the texts of ``pairs``."""
        positions: dict[str, int] = {}
        first, second = [], []
        for one, other, _ in pairs:
            first.append(positions.setdefault(one, len(positions)))
            second.append(positions.setdefault(other, len(positions)))
        return cls(tuple(positions), tuple(first), tuple(second), pairs.labels)


def encode(model: SentenceTransformer, texts: tuple[str, ...], precise: bool) -> Matrix:
    """Return the embeddings, shape (texts, dimension).

    Args:
        model: The encoder.
        texts: What to encode.
        precise: In float32, as plain ``SentenceTransformer(path).encode`` does; otherwise in
            bfloat16
            where the machine has it: 1.8 times as fast, but the ROC AUC of 1,500 pairs is then off
            by up to 1e-4 (measured), which people would see.

    Raises:
        FloatingPointError: An embedding is not finite.
    """
    import torch

    from objectives.encoders import has_bf16

    device = model.device.type
    context: Any = contextlib.nullcontext()
    if not precise and has_bf16(device):
        context = torch.autocast(device, torch.bfloat16)
    with context:
        embeddings = model.encode(
            list(texts),
            batch_size=BATCH.get(device, 64),
            show_progress_bar=False,
            convert_to_tensor=True,
        )
    found: Matrix = embeddings.float().cpu().numpy()
    if not np.isfinite(found).all():
        raise FloatingPointError("the model's embeddings are not finite: training has diverged")
    return found


def similarities(embeddings: Matrix, texts: Texts) -> Similarities:
    """Return the cosine of each pair, shape (pairs,); 0 where an embedding is all zeros."""

    def unit(rows: tuple[int, ...]) -> NDArray[np.float64]:
        vectors = embeddings[list(rows)].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors /= np.where(norms == 0, 1, norms)
        return vectors

    cosines = np.empty(len(texts.labels), np.float32)
    for start in range(0, cosines.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        one, other = unit(texts.first[block]), unit(texts.second[block])
        cosines[block] = np.einsum("ij,ij->i", one, other)
    return cosines


def score(embeddings: Matrix, texts: Texts) -> float:
    """Return the ROC AUC of the pairs."""
    return roc_auc(texts.labels, similarities(embeddings, texts))


def measure(embeddings: Matrix, texts: Texts) -> dict[str, Any]:
    """Return every measure of the pairs; see :func:`objectives.metrics.summarise`."""
    return summarise(texts.labels, similarities(embeddings, texts))
