"""Voyage AI's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from objectives.apis.provider import TIMEOUT_SECONDS, Answer, Client, RequestFailedError


class Voyage:
    """See :class:`objectives.apis.provider.Provider`.

    Without an input type Voyage puts no prompt before a text: both texts of a pair are of one kind.
    """

    name = "voyage"
    title = "Voyage"
    package = "voyageai"
    key_variable = "VOYAGE_API_KEY"
    url_variable = "VOYAGE_BASE_URL"  # ours: the SDK has none
    input_type: str | None = None
    max_texts = 1000
    max_tokens = 120_000  # that of the largest models; others take more

    def connect(self, key: str, url: str | None) -> Client:
        """Return a client."""
        return _Client(key, url)


class _Client:
    def __init__(self, key: str, url: str | None) -> None:
        import voyageai

        self._failed: Any = voyageai.error.VoyageError
        self._client = voyageai.Client(
            api_key=key, max_retries=0, timeout=TIMEOUT_SECONDS, base_url=url
        )

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None) -> Answer:
        try:
            response = self._client.embed(list(texts), model=model, output_dimension=dimensions)
        except self._failed as error:
            said = error.user_message or type(error).__name__
            raise RequestFailedError(said, error.http_status, error.headers) from None
        return Answer(response.embeddings, response.total_tokens)
