"""What a provider of embeddings is to the rest of this package, whoever it is.

Each has a module of its own, which knows its SDK and nothing else: what to try again, what to keep
and what it costs are decided once, for all of them.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

TIMEOUT_SECONDS = 60.0
"""How long one request may take; the SDKs would wait up to ten minutes."""


class ApiError(ValueError):
    """A model behind an API that cannot be scored, with the reason and the way out."""


class RequestFailedError(Exception):
    """One request failed; whether to try again is decided in ``objectives.apis.retrying``.

    Attributes:
        status: The HTTP status; ``None`` if there was no answer.
        wait: Seconds that the server asked to wait, if it did.
        spent: Whether the account's allowance is used up, which no waiting mends.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        spent: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait_asked_for(headers or {})
        self.spent = spent


@dataclass(frozen=True)
class Answer:
    """What came back for one batch.

    Attributes:
        vectors: One for each text, in their order.
        tokens: How many tokens are billed; ``None`` if the API did not say.
    """

    vectors: Sequence[Sequence[float]]
    tokens: int | None


class Client(Protocol):
    """A connection through the provider's SDK, whose own retries are off."""

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None) -> Answer:
        """Embed one batch.

        Raises:
            RequestFailedError: No vectors came back.
        """


class Provider(Protocol):
    """A provider.

    Attributes:
        name: What people write before the colon, and the extra that brings its SDK.
        title: Its name in messages.
        package: The SDK's module.
        key_variable: The environment variable that holds the key.
        url_variable: The environment variable that holds another address of the API.
        input_type: What the API is told that texts are; ``None`` if nothing.
        max_texts: Texts in one request.
        max_tokens: Tokens in one request.
    """

    name: str
    title: str
    package: str
    key_variable: str
    url_variable: str
    input_type: str | None
    max_texts: int
    max_tokens: int

    def connect(self, key: str, url: str | None) -> Client:
        """Return a client; ``url`` is another address of the API than the SDK's own."""


def wait_asked_for(headers: Mapping[str, Any]) -> float | None:
    """Return how many seconds the headers of an answer ask to wait: a number or a date."""
    given = {str(name).lower(): str(value) for name, value in headers.items()}
    text = given.get("retry-after", "")
    try:
        if "retry-after-ms" in given:
            return max(0.0, float(given["retry-after-ms"]) / 1000)
        return max(0.0, float(text))
    except ValueError:
        date = email.utils.parsedate_tz(text)
        return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())
