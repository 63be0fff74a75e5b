"""Three embedding APIs on loopback, speaking the wire formats that the real SDKs expect.

A text's vector is the sum of its words' vectors, so that pairs which share words are similar. What
goes wrong is told beforehand: each of :attr:`ApiServer.faults` answers one request.
"""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import numpy as np

KEY = "sk-loopback-0123456789abcdef"

NATIVE = {"embed-v4.0": 48, "embed-multilingual-v3.0": 32}
"""Dimensions of some models; the others have 64."""

FIXED = {"embed-multilingual-v3.0"}
"""Models without a choice of dimensions."""

MAX_TEXTS = {"openai": 2048, "cohere": 96, "voyage": 1000}


@dataclass(frozen=True)
class Fault:
    """An answer that is none."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    code: str = "trouble"


@dataclass(frozen=True)
class Request:
    """One that arrived: whose API, its body, and the status it was answered with."""

    api: str
    body: dict[str, Any]
    status: int

    @property
    def texts(self) -> list[str]:
        found: list[str] = self.body["texts" if self.api == "cohere" else "input"]
        return found


def vector(text: str, dimensions: int) -> np.ndarray:
    """Return the vector of a text."""
    words = [zlib.crc32(word.encode()) for word in text.split()]
    found = sum(np.random.default_rng(word).standard_normal(dimensions) for word in words)
    return np.asarray(found, np.float32)


def tokens_of(texts: list[str]) -> int:
    """Return what is billed."""
    return sum(len(text.split()) + 1 for text in texts)


class ApiServer:
    """The server; a context manager. ``urls`` has the address of each API."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.hang_at: int | None = None
        """The request, counted from 0, that gets no answer before the server ends."""
        self.hung = threading.Event()
        self.ended = threading.Event()
        handler = type("Handler", (_Handler,), {"api_server": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        address = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.urls = {
            "openai": f"{address}/openai/v1",
            "cohere": f"{address}/cohere",
            "voyage": f"{address}/voyage/v1",
        }

    def environment(self, cache: Any) -> dict[str, str]:
        """Return the variables of somebody who uses it, with an empty cache."""
        return {
            "OPENAI_API_KEY": KEY,
            "CO_API_KEY": KEY,
            "VOYAGE_API_KEY": KEY,
            "OPENAI_BASE_URL": self.urls["openai"],
            "CO_API_URL": self.urls["cohere"],
            "VOYAGE_BASE_URL": self.urls["voyage"],
            "XDG_CACHE_HOME": str(cache),
            "NO_PROXY": "127.0.0.1",
        }

    @property
    def answered(self) -> list[Request]:
        return [each for each in self.requests if each.status == 200]

    def paid(self) -> Counter[str]:
        """Return how often each text was answered."""
        return Counter(text for each in self.answered for text in each.texts)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    api_server: ApiServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.api_server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        api = self.path.split("/")[1]
        if len(server.requests) == server.hang_at:
            server.hung.set()
            server.ended.wait(30)
            return
        status, answer, headers = self._answer(api, body)
        server.requests.append(Request(api, body, status))
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, api: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if self.headers["Authorization"] != f"Bearer {KEY}":
            shown = self.headers["Authorization"]
            return 401, _error(api, f"no such key: {shown}", "invalid_api_key"), {}
        if self.api_server.faults:
            fault = self.api_server.faults.pop(0)
            return fault.status, _error(api, "deliberately broken", fault.code), fault.headers
        expected = {"openai": "/v1/embeddings", "cohere": "/v2/embed", "voyage": "/v1/embeddings"}
        if self.path != f"/{api}{expected[api]}":
            return 404, _error(api, f"no such path: {self.path}", "not_found"), {}
        texts = body["texts" if api == "cohere" else "input"]
        if not 0 < len(texts) <= MAX_TEXTS[api] or not all(texts):
            return 400, _error(api, "too many texts, none, or an empty one", "bad"), {}
        name = {"openai": "dimensions"}.get(api, "output_dimension")
        asked, model = body.get(name), body["model"]
        if asked is not None and model in FIXED and api == "cohere":
            return 400, _error(api, f"{model} has no {name}", "bad"), {}
        dimensions = NATIVE.get(model, 64) if asked is None or model == "stubborn" else asked
        vectors = [vector(text, dimensions) for text in texts]
        return 200, _wrapped(api, body, texts, vectors), {}

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def _error(api: str, message: str, code: str) -> Any:
    if api == "openai":
        return {"error": {"message": message, "type": code, "param": None, "code": code}}
    return {"message": message} if api == "cohere" else {"detail": message}


def _wrapped(api: str, body: dict[str, Any], texts: list[str], vectors: list[np.ndarray]) -> Any:
    tokens = tokens_of(texts)
    if api == "cohere":
        assert body["input_type"] == "search_document"
        assert body["embedding_types"] == ["float"]
        billed = {"input_tokens": tokens}
        return {
            "id": "1",
            "response_type": "embeddings_by_type",
            "embeddings": {"float": [each.tolist() for each in vectors]},
            "texts": texts,
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
        }
    assert body["encoding_format"] == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(each.astype("<f4").tobytes()).decode(),
        }
        for index, each in enumerate(vectors)
    ]
    if api == "openai":  # which promises indices and no order
        data.reverse()
    usage = {"total_tokens": tokens} | ({"prompt_tokens": tokens} if api == "openai" else {})
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}
