"""A model behind an API as a baseline: what its score would cost, and the score.

What reaches the API are the texts of the pairs that it is scored on, and nothing else of the study.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.apis.cohere import Cohere
from objectives.apis.embedding import fill
from objectives.apis.openai import OpenAI
from objectives.apis.prices import Price, estimate_tokens
from objectives.apis.provider import ApiError, Provider
from objectives.apis.retrying import Patience
from objectives.apis.vectors import VectorCache, cache_directory
from objectives.apis.voyage import Voyage
from objectives.evaluation import Matrix, Similarities, Texts, measure, similarities
from objectives.pairs import read_jsonl

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider for provider in (OpenAI(), Cohere(), Voyage())
}
"""Providers by what people write before the colon."""


@dataclass(frozen=True)
class Estimate:
    """What a score would take.

    Attributes:
        texts: Distinct texts of the pairs.
        cached: How many of them have a vector already.
        tokens: About how many tokens the others have, rather too many.
        dollars: What they would cost; ``None`` if the price is unknown.
        source: Where the price comes from, for people.
    """

    texts: int
    cached: int
    tokens: int
    dollars: float | None
    source: str


@dataclass(frozen=True)
class Score:
    """A score, and what it cost.

    Attributes:
        value: The ROC AUC.
        metrics: All measures, as those of a trial.
        tokens: Tokens billed for the vectors that it needs, whenever that was.
        dollars: What they cost; ``None`` if the price is unknown.
        tokens_now: Tokens billed just now.
        dollars_now: What these cost; ``None`` if the price is unknown.
    """

    value: float
    metrics: dict[str, Any]
    tokens: int
    dollars: float | None
    tokens_now: int
    dollars_now: float | None


class ApiModel:
    """A model behind an API, with the pairs to score it on.

    Args:
        name: ``provider:model``.
        pairs: File of these, as ``objectives.pairs.write_jsonl`` writes them.
        dimensions: How long vectors are to be; ``None`` leaves it to the API.
        prices: Dollars for a million tokens by ``provider:model``, over the table's.
        patience: How long to go on with a request that fails.

    Raises:
        ApiError: No such provider, or no model.
    """

    def __init__(
        self,
        name: str,
        pairs: str | Path,
        dimensions: int | None = None,
        prices: Mapping[str, float] | None = None,
        patience: Patience | None = None,
    ) -> None:
        prefix, _, self._model = name.partition(":")
        if prefix not in PROVIDERS or not self._model:
            raise ApiError(
                f"model {name!r}: before the colon stands one of {', '.join(PROVIDERS)}, and "
                "after it the model's name there, as in openai:text-embedding-3-small"
            )
        self._provider = PROVIDERS[prefix]
        self.source = prefix
        self.params: dict[str, Any] = {"base_model": name}
        if dimensions is not None:
            self.params["dimension"] = dimensions
        self._dimensions = dimensions
        self._pairs = Path(pairs)
        self._price = Price.of(name, prices or {})
        self._patience = patience or Patience()
        self._url = os.environ.get(self._provider.url_variable) or None
        self._cache = VectorCache(
            cache_directory(), prefix, self._model, dimensions, self._provider.input_type, self._url
        )

    def estimate(self) -> Estimate:
        """Return what a score would take; asks nobody.

        Raises:
            ApiError: It would take a request, and there is no key or no SDK for one.
        """
        texts = self._texts().texts
        missing = self._cache.missing(texts)
        if missing:
            self._require_sdk()
            self._key()
        tokens = sum(map(estimate_tokens, missing))
        return Estimate(
            len(texts),
            len(texts) - len(missing),
            tokens,
            self._price.dollars(tokens),
            self._price.source,
        )

    def __call__(self, say: Callable[[str], None]) -> Score:
        """Score the model; texts that have a vector are not asked for again.

        Args:
            say: Takes lines on what happens.

        Raises:
            ApiError: It cannot be scored. Vectors that were answered before are kept.
        """
        texts, embeddings, tokens, now = self._embed(say)
        metrics = measure(embeddings, texts)
        metrics["dimension"] = int(embeddings.shape[1])
        return Score(
            float(metrics["roc_auc"]),
            metrics,
            round(tokens),
            self._price.dollars(round(tokens)),
            round(now),
            self._price.dollars(now),
        )

    def similarities(self, say: Callable[[str], None]) -> tuple[Similarities, int]:
        """Return the cosine of each pair, and how long the vectors are.

        Arguments and errors as for a score.
        """
        texts, embeddings, _, _ = self._embed(say)
        return similarities(embeddings, texts), int(embeddings.shape[1])

    def _embed(self, say: Callable[[str], None]) -> tuple[Texts, Matrix, float, float]:
        """Return the texts, their vectors, and the tokens billed for them ever and just now."""
        texts = self._texts()
        now = self._fill(self._cache.missing(texts.texts), say)
        embeddings, tokens = self._cache.load(texts.texts)
        return texts, embeddings, tokens, now

    def _fill(self, missing: list[str], say: Callable[[str], None]) -> float:
        if not missing:
            return 0.0
        key = self._key()
        client = self._provider.connect(key, self._url)

        def hide(text: str) -> str:
            return text.replace(key, "(the key)")

        return fill(
            *(self._cache, missing, self._provider, client, self._model, self._dimensions),
            *(hide, say, self._patience),
        )

    def _texts(self) -> Texts:
        return Texts.of(read_jsonl(self._pairs))

    def _require_sdk(self) -> None:
        if importlib.util.find_spec(self._provider.package) is None:
            raise ApiError(
                f"{self._provider.title} is asked through its own SDK, and the package "
                f"{self._provider.package!r} is not installed: pip install "
                f"'hpo[{self._provider.name}]'"
            )

    def _key(self) -> str:
        variable = self._provider.key_variable
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ApiError(
                f"{self._provider.title} needs a key: set the environment variable {variable}."
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            # An HTTP library would refuse it, too, and show it.
            raise ApiError(
                f"{variable} holds characters that no key has, such as a space or the end of a "
                f"line: set it to the key of {self._provider.title} alone."
            )
        return key
