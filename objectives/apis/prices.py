"""What embedding a text costs: a dated table, as no API tells its prices.

Estimates are high on purpose, since they are agreed to before anything is paid; what was paid
follows from the tokens that the API says it bills.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DATE = "2026-05"

SOURCE = "third parties' transcriptions of the providers' price pages"

PRICES: Mapping[str, float] = MappingProxyType(
    {
        "openai:text-embedding-3-small": 0.02,
        "openai:text-embedding-3-large": 0.13,
        "openai:text-embedding-ada-002": 0.10,
        "cohere:embed-v4.0": 0.12,
        "cohere:embed-english-v3.0": 0.10,
        "cohere:embed-multilingual-v3.0": 0.10,
        "voyage:voyage-4-large": 0.12,
        "voyage:voyage-4": 0.06,
        "voyage:voyage-4-lite": 0.02,
        "voyage:voyage-3-large": 0.18,
        "voyage:voyage-3.5": 0.06,
        "voyage:voyage-3.5-lite": 0.02,
    }
)
"""Dollars for a million tokens of text; free allowances of an account are not counted."""

BYTES_A_TOKEN = 3
"""A token for so many bytes of UTF-8: English has four and more, Chinese about one character."""


@dataclass(frozen=True)
class Price:
    """What a model costs.

    Attributes:
        per_million: Dollars for a million tokens; ``None`` if nobody knows.
        source: Who says so, for people.
    """

    per_million: float | None
    source: str

    @classmethod
    def of(cls, model: str, given: Mapping[str, float]) -> Price:
        """Return the price of ``provider:model``: what was given, else the table's."""
        if model in given:
            return cls(given[model], "price of sweep.toml")
        if model in PRICES:
            return cls(PRICES[model], f"price of {DATE}")
        return cls(None, "price unknown")

    def dollars(self, tokens: float) -> float | None:
        """Return what ``tokens`` cost; ``None`` if that is unknown, nothing if there are none."""
        if tokens == 0:
            return 0.0
        return None if self.per_million is None else tokens * self.per_million / 1e6


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has, rather too many than too few."""
    return 1 + -(-len(text.encode()) // BYTES_A_TOKEN)
