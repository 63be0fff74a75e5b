"""Getting the vectors of many texts: in batches, each one kept before the next is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from objectives.apis.prices import estimate_tokens
from objectives.apis.provider import Answer, ApiError, Client, Provider
from objectives.apis.retrying import Patience, persist
from objectives.apis.vectors import VectorCache

MARGIN = 0.5
"""Batches fill this share of the tokens that a request may have, as those are estimated."""


def batches(texts: Sequence[str], max_texts: int, max_tokens: float) -> Iterator[list[str]]:
    """Yield ``texts`` in their order, as many at a time as one request may hold.

    A text that has too many tokens for a request comes alone: the API is to say what it thinks.
    """
    batch: list[str] = []
    tokens = 0
    for text in texts:
        count = estimate_tokens(text)
        if batch and (len(batch) == max_texts or tokens + count > max_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += count
    if batch:
        yield batch


def fill(
    cache: VectorCache,
    texts: Sequence[str],
    provider: Provider,
    client: Client,
    model: str,
    dimensions: int | None,
    hide: Callable[[str], str],
    say: Callable[[str], None],
    patience: Patience,
) -> float:
    """Get the vectors of ``texts`` into ``cache``; return how many tokens that cost.

    Raises:
        ApiError: The API refused, failed too often, or gave something else than was asked for.
    """
    total, done = 0.0, 0
    for batch in batches(texts, provider.max_texts, MARGIN * provider.max_tokens):

        def ask(batch: list[str] = batch) -> Answer:
            return client.embed(batch, model, dimensions)

        answer = persist(ask, provider, hide, say, patience)
        vectors = _checked(answer, len(batch), dimensions, provider)
        estimates = [estimate_tokens(text) for text in batch]
        billed = sum(estimates) if answer.tokens is None else answer.tokens
        # An API bills a batch; a text's share makes what some of them cost known later, too.
        cache.store(batch, vectors, [billed * each / sum(estimates) for each in estimates])
        total += billed
        done += len(batch)
        if done < len(texts):
            say(f"{provider.title}: {done:,} of {len(texts):,} texts")
    return total


def _checked(answer: Answer, texts: int, dimensions: int | None, provider: Provider) -> np.ndarray:
    """Return the vectors as one array.

    Raises:
        ApiError: They are not what was asked for.
    """
    lengths = {len(vector) for vector in answer.vectors}
    if len(answer.vectors) != texts or len(lengths) != 1:
        raise ApiError(
            f"{provider.title} answered {texts} texts with {len(answer.vectors)} vectors of "
            f"{', '.join(map(str, sorted(lengths))) or 'no'} dimensions; nothing of it was kept."
        )
    if dimensions is not None and lengths != {dimensions}:
        raise ApiError(
            f"{provider.title} answered with {lengths.pop()} dimensions, not the {dimensions} that "
            "were asked for: this model has no choice of dimensions; leave --dimensions out."
        )
    vectors = np.asarray(answer.vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise ApiError(f"{provider.title} answered with numbers that are not finite.")
    return vectors
