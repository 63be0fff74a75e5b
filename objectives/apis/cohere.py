"""Cohere's embeddings, by version 2 of its API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from objectives.apis.provider import TIMEOUT_SECONDS, Answer, Client, RequestFailedError


class Cohere:
    """See :class:`objectives.apis.provider.Provider`.

    Version 3 and later want to know what a text is for, and none of their purposes is comparing two
    texts of one kind; ``search_document`` is what Cohere advises where none fits, and what the MTEB
    benchmark uses for its pairs.
    """

    name = "cohere"
    title = "Cohere"
    package = "cohere"
    key_variable = "CO_API_KEY"
    url_variable = "CO_API_URL"
    input_type: str | None = "search_document"
    max_texts = 96
    max_tokens = 120_000  # no limit is documented

    def connect(self, key: str, url: str | None) -> Client:
        """Return a client."""
        return _Client(key, url)


class _Client:
    def __init__(self, key: str, url: str | None) -> None:
        import cohere
        import httpx
        from cohere.core.api_error import ApiError
        from cohere.core.parse_error import ParsingError

        self._refused: Any = ApiError
        self._broken: Any = (httpx.HTTPError, ParsingError)
        # The address is given, too, as the SDK reads the environment only when it is imported.
        self._client = cohere.ClientV2(key, base_url=url, timeout=TIMEOUT_SECONDS)

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None) -> Answer:
        wanted = {} if dimensions is None else {"output_dimension": dimensions}
        try:
            response = self._client.embed(
                texts=list(texts),
                model=model,
                input_type=Cohere.input_type,
                embedding_types=["float"],
                request_options={"max_retries": 0},
                **wanted,
            )
        except self._refused as error:
            body = error.body
            said = body.get("message") if isinstance(body, dict) else body
            raise RequestFailedError(str(said), error.status_code, error.headers) from None
        except self._broken as error:
            raise RequestFailedError(f"{type(error).__name__}: {error}") from None
        billed = response.meta and response.meta.billed_units
        tokens = billed and billed.input_tokens
        return Answer(response.embeddings.float_ or [], None if tokens is None else int(tokens))
