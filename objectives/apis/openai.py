"""OpenAI's embeddings, or those of any server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from objectives.apis.provider import TIMEOUT_SECONDS, Answer, Client, RequestFailedError


class OpenAI:
    """See :class:`objectives.apis.provider.Provider`."""

    name = "openai"
    title = "OpenAI"
    package = "openai"
    key_variable = "OPENAI_API_KEY"
    url_variable = "OPENAI_BASE_URL"
    input_type: str | None = None
    max_texts = 2048
    max_tokens = 300_000

    def connect(self, key: str, url: str | None) -> Client:
        """Return a client."""
        return _Client(key, url)


class _Client:
    def __init__(self, key: str, url: str | None) -> None:
        import openai

        self._sdk: Any = openai
        self._client = openai.OpenAI(
            api_key=key, base_url=url, max_retries=0, timeout=TIMEOUT_SECONDS
        )

    def embed(self, texts: Sequence[str], model: str, dimensions: int | None) -> Answer:
        wanted = self._sdk.omit if dimensions is None else dimensions
        try:
            response = self._client.embeddings.create(
                input=list(texts), model=model, dimensions=wanted
            )
        except self._sdk.APIStatusError as error:
            body, spent = error.body, error.code == "insufficient_quota"
            said = body.get("message") if isinstance(body, dict) else error.message
            raise RequestFailedError(
                str(said), error.status_code, error.response.headers, spent
            ) from None
        except self._sdk.OpenAIError as error:
            raise RequestFailedError(str(error)) from None
        ordered = sorted(response.data, key=lambda each: each.index)
        return Answer([each.embedding for each in ordered], response.usage.total_tokens)
