"""Closed models as baselines: the real SDKs against APIs on loopback, and what was paid for."""

from __future__ import annotations

import email.utils
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.apis import ApiError, ApiModel, api_model
from objectives.apis.embedding import batches
from objectives.apis.prices import PRICES, Price, estimate_tokens
from objectives.apis.provider import RequestFailedError, wait_asked_for
from objectives.apis.retrying import Patience
from objectives.apis.vectors import VectorCache
from objectives.evaluation import Texts, measure
from objectives.metrics import roc_auc
from objectives.pairs import write_jsonl
from tests.api_loopback import KEY, ApiServer, Fault, tokens_of, vector
from tests.objectives.conftest import make_pairs

for package in ("openai", "cohere", "voyageai"):
    pytest.importorskip(package, reason="needs the extra 'apis'")

PAIRS = make_pairs(120)
TEXTS = Texts.of(PAIRS)
PAIRS_FILE = "test.jsonl"

MODELS = ["openai:text-embedding-3-small", "cohere:embed-v4.0", "voyage:voyage-3.5"]

VARIABLES = {"openai": "OPENAI_API_KEY", "cohere": "CO_API_KEY", "voyage": "VOYAGE_API_KEY"}


def variable_of(model: str) -> str:
    return VARIABLES[model.partition(":")[0]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """The three APIs, in the environment of somebody with keys and an empty cache."""
    write_jsonl(PAIRS, tmp_path / PAIRS_FILE)
    with ApiServer() as found:
        for name, value in found.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        yield found


class Clock:
    """Remembers how long it was asked to sleep."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def patience(self, **changes: float) -> Patience:
        return replace(Patience(sleep=self.slept.append, jitter=lambda: 0.5), **changes)


def ignore(line: str) -> None:
    pass


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_scored_on_the_vectors_of_its_api(
    name: str, server: ApiServer, tmp_path: Path
) -> None:
    model = ApiModel(name, tmp_path / PAIRS_FILE)
    estimate = model.estimate()
    assert server.requests == []
    score = model(ignore)
    size = 48 if name.startswith("cohere") else 64
    expected = measure(np.stack([vector(text, size) for text in TEXTS.texts]), TEXTS)
    assert score.metrics == {**expected, "dimension": size}
    cosines, dimension = model.similarities(ignore)  # from what was paid for already
    assert dimension == size
    assert roc_auc(PAIRS.labels, cosines) == score.value
    assert score.value == expected["roc_auc"]
    assert 0.6 < score.value < 1
    assert (estimate.texts, estimate.cached) == (len(TEXTS.texts), 0)
    assert server.paid() == dict.fromkeys(TEXTS.texts, 1)
    billed = tokens_of(list(TEXTS.texts))
    assert score.tokens == score.tokens_now == billed <= estimate.tokens
    assert score.dollars == score.dollars_now == pytest.approx(billed * PRICES[name] / 1e6)
    assert estimate.dollars == pytest.approx(estimate.tokens * PRICES[name] / 1e6)


@pytest.mark.parametrize("name", MODELS)
def test_a_second_run_makes_no_request(
    name: str, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ApiModel(name, tmp_path / PAIRS_FILE)(ignore)
    count = len(server.requests)
    monkeypatch.delenv(variable_of(name))  # nor does it need a key
    again = ApiModel(name, tmp_path / PAIRS_FILE)
    assert again.estimate().cached == len(TEXTS.texts)
    assert again.estimate().dollars == 0
    second = again(ignore)
    assert len(server.requests) == count
    assert second == replace(first, tokens_now=0, dollars_now=0.0)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*.sqlite"))
    assert kept
    assert KEY.encode() not in kept
    assert PAIRS.first[0].encode() not in kept


@pytest.mark.parametrize("name", MODELS)
def test_what_may_pass_is_tried_again(name: str, server: ApiServer, tmp_path: Path) -> None:
    server.faults = [Fault(429, {"Retry-After": "8"}), Fault(500), Fault(503)]
    clock, said = Clock(), list[str]()
    score = ApiModel(name, tmp_path / PAIRS_FILE, patience=clock.patience())(said.append)
    assert score.value > 0.6
    statuses = [each.status for each in server.requests]
    assert statuses[:4] == [429, 500, 503, 200]
    assert clock.slept == [pytest.approx(8.4), 1.5, 3.0]  # never less than was asked for
    assert "HTTP 429" in said[0]
    assert "trying again in 8.4 s" in said[0]


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_up_in_the_end(name: str, server: ApiServer, tmp_path: Path) -> None:
    server.faults = [Fault(500)] * 5
    clock = Clock()
    model = ApiModel(name, tmp_path / PAIRS_FILE, patience=clock.patience(tries=4))
    with pytest.raises(ApiError, match="failed 4 times in a row, the last time with: HTTP 500"):
        model(ignore)
    assert (len(server.requests), len(clock.slept)) == (4, 3)


@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_key_is_named_by_its_variable_and_never_shown(
    name: str, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "sk-wrong-fedcba9876543210"
    monkeypatch.setenv(variable_of(name), wrong)
    with pytest.raises(ApiError, match=f"does not accept the key in {variable_of(name)}") as found:
        ApiModel(name, tmp_path / PAIRS_FILE)(ignore)
    assert len(server.requests) == 1
    assert wrong not in "".join(traceback.format_exception(found.value))


@pytest.mark.parametrize("name", MODELS)
def test_a_key_in_an_answer_is_taken_out(
    name: str, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The path of another API: an answer that is not about the key, but shows all of the request.
    url = {"openai": "OPENAI_BASE_URL", "cohere": "CO_API_URL", "voyage": "VOYAGE_BASE_URL"}
    variable = url[name.partition(":")[0]]
    monkeypatch.setenv(variable, f"{os.environ[variable]}/{KEY}")
    with pytest.raises(ApiError, match=r"HTTP 404.*\(the key\)") as found:
        ApiModel(name, tmp_path / PAIRS_FILE)(ignore)
    assert KEY not in "".join(traceback.format_exception(found.value))


@pytest.mark.parametrize("name", MODELS)
def test_without_a_key_or_an_sdk_it_is_refused_before_any_request(
    name: str, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = variable_of(name)
    with monkeypatch.context() as patch:
        patch.delenv(variable)
        with pytest.raises(ApiError, match=f"set the environment variable {variable}"):
            ApiModel(name, tmp_path / PAIRS_FILE).estimate()
        patch.setenv(variable, f"{KEY}\nmore")
        with pytest.raises(ApiError, match=f"{variable} holds characters that no key") as found:
            ApiModel(name, tmp_path / PAIRS_FILE).estimate()
        assert KEY not in str(found.value)
    extra = name.partition(":")[0]
    monkeypatch.setitem(sys.modules, {"voyage": "voyageai"}.get(extra, extra), None)
    with pytest.raises(ApiError, match=rf"pip install 'hpo\[{extra}\]'"):
        ApiModel(name, tmp_path / PAIRS_FILE).estimate()
    assert server.requests == []


@pytest.mark.parametrize("name", MODELS)
def test_dimensions_are_asked_for_and_kept_apart(
    name: str, server: ApiServer, tmp_path: Path
) -> None:
    full = ApiModel(name, tmp_path / PAIRS_FILE)(ignore)
    model = ApiModel(name, tmp_path / PAIRS_FILE, dimensions=16)
    assert model.params == {"base_model": name, "dimension": 16}
    assert model.estimate().cached == 0
    small = model(ignore)
    assert small.metrics["dimension"] == 16
    assert small.value != full.value
    assert ApiModel(name, tmp_path / PAIRS_FILE)(ignore).value == full.value


def test_dimensions_that_a_model_does_not_have_are_refused(
    server: ApiServer, tmp_path: Path
) -> None:
    with pytest.raises(
        ApiError, match=r"Cohere refused the request: HTTP 400, embed-multi.*has no"
    ):
        ApiModel("cohere:embed-multilingual-v3.0", tmp_path / PAIRS_FILE, dimensions=16)(ignore)
    with pytest.raises(ApiError, match="64 dimensions, not the 16 that were asked for"):
        ApiModel("voyage:stubborn", tmp_path / PAIRS_FILE, dimensions=16)(ignore)
    # What was not asked for is not kept as if it were.
    assert ApiModel("voyage:stubborn", tmp_path / PAIRS_FILE, dimensions=16).estimate().cached == 0


def test_what_no_waiting_mends_is_not_waited_for(server: ApiServer, tmp_path: Path) -> None:
    model = ApiModel(MODELS[0], tmp_path / PAIRS_FILE)
    server.faults = [Fault(429, code="insufficient_quota")]
    with pytest.raises(ApiError, match="OpenAI refused the request: HTTP 429, deliberately"):
        model(ignore)
    server.faults = [Fault(429, {"Retry-After": "3600"})]
    with pytest.raises(ApiError, match="asks to wait for 3,600 s"):
        model(ignore)
    assert len(server.requests) == 2


def test_a_server_that_is_not_there_is_no_answer(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for name, variable in zip(
        MODELS, ("OPENAI_BASE_URL", "CO_API_URL", "VOYAGE_BASE_URL"), strict=True
    ):
        monkeypatch.setenv(variable, "http://127.0.0.1:9/v1")  # the port of nobody
        with pytest.raises(ApiError, match="failed 2 times in a row, the last time with: no ans"):
            ApiModel(name, tmp_path / PAIRS_FILE, patience=clock.patience(tries=2))(ignore)


KILLED = """
import sys
from objectives.apis import ApiModel
assert "torch" not in sys.modules
ApiModel("cohere:embed-v4.0", sys.argv[1])(print)
"""


def test_killed_half_way_it_goes_on_without_paying_again(server: ApiServer, tmp_path: Path) -> None:
    server.hang_at = 2
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / PAIRS_FILE)])
    try:
        assert server.hung.wait(30)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert sum(server.paid().values()) == 2 * 96
    server.hang_at = None
    model = ApiModel("cohere:embed-v4.0", tmp_path / PAIRS_FILE)
    assert model.estimate().cached == 2 * 96
    score = model(ignore)
    assert server.paid() == dict.fromkeys(TEXTS.texts, 1)
    assert max(len(each.texts) for each in server.requests) == 96
    # What the first run paid counts, though it never got to a score.
    assert score.tokens == tokens_of(list(TEXTS.texts))
    assert score.tokens_now == tokens_of(list(TEXTS.texts[2 * 96 :]))


def test_a_damaged_cache_says_where_it_is(server: ApiServer, tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "cache", "openai", "a/b")
    cache.path.parent.mkdir()
    cache.path.write_bytes(b"no database at all" * 100)
    with pytest.raises(ApiError, match=r"openai-a-b\.sqlite keeps the vectors"):
        cache.missing(["a"])


@given(
    texts=st.lists(st.text(max_size=40), max_size=60),
    max_texts=st.integers(1, 10),
    max_tokens=st.integers(1, 60),
)
def test_batches_keep_order_and_limits(texts: list[str], max_texts: int, max_tokens: int) -> None:
    found = list(batches(texts, max_texts, max_tokens))
    assert [text for batch in found for text in batch] == texts
    for batch in found:
        assert 1 <= len(batch) <= max_texts
        assert len(batch) == 1 or sum(map(estimate_tokens, batch)) <= max_tokens


def test_vectors_come_back_as_they_were_kept(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path, "p", "m", 2)
    vectors = np.array([[1.5, -2.25], [0.1, 3e-9]], np.float32)
    cache.store(["a", "b"], vectors, [1.25, 2.0])
    assert cache.missing(["b", "c", "a"]) == ["c"]
    loaded, tokens = cache.load(["b", "a"])
    np.testing.assert_array_equal(loaded, vectors[::-1])
    assert tokens == 3.25
    for other in (VectorCache(tmp_path, "p", "m", 3), VectorCache(tmp_path, "p", "m!", 2)):
        assert other.missing(["a"]) == ["a"]


def test_a_wait_is_read_as_servers_write_it() -> None:
    assert wait_asked_for({"Retry-After": "2.5"}) == 2.5
    assert wait_asked_for({"retry-after-ms": "150", "retry-after": "9"}) == 0.15
    soon = wait_asked_for({"Retry-After": email.utils.formatdate(time.time() + 30, usegmt=True)})
    assert soon is not None
    assert 25 < soon <= 30
    assert wait_asked_for({"Retry-After": email.utils.formatdate(0, usegmt=True)}) == 0
    assert wait_asked_for({"Retry-After": "soon"}) is None
    assert wait_asked_for({}) is None
    assert RequestFailedError("x", 429, {"RETRY-AFTER": "1"}).wait == 1


def test_prices_are_given_known_or_unknown() -> None:
    assert Price.of("openai:mine", {}).dollars(1000) is None
    assert Price.of("openai:mine", {}).dollars(0) == 0
    given_price = Price.of("voyage:voyage-3.5", {"voyage:voyage-3.5": 2.0})
    assert given_price.dollars(500_000) == 1.0
    assert "sweep.toml" in given_price.source


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for name in ("gemini:embedding-001", "openai:"):
        with pytest.raises(ApiError, match="one of openai, cohere, voyage"):
            api_model(name, str(tmp_path), None, {})
    with pytest.raises(ApiError, match="--dimensions is for models behind an API"):
        api_model("all-MiniLM-L6-v2", str(tmp_path), 128, {})
    with pytest.raises(ValueError, match="there is no model"):
        api_model(str(tmp_path / "nothing"), str(tmp_path), None, {})
