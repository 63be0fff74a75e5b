"""The winner's evaluation: against other models' scores, against sklearn, and without a leak."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hpo import CurrentAttempt, attempt_context
from objectives import FineTune
from objectives.evaluation import Texts, similarities
from objectives.intervals import MEASURES
from objectives.metrics import roc_auc
from objectives.pairs import Pairs, read_jsonl
from objectives.prepared import prepare_data
from objectives.scores import SCORES, pack_scores, unpack_scores
from objectives.splits import components
from tests.api_loopback import ApiServer, vector
from tests.objectives.test_finetune import Prepared, Trial, parameters, run

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Case:
    """A study with a tuned winner, and what its evaluation needs."""

    objective: FineTune
    attempt: CurrentAttempt
    base: str
    value: float
    metrics: dict[str, Any]
    scores: str
    baselines: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)

    @property
    def validation(self) -> Pairs:
        assert self.attempt.data is not None
        return read_jsonl(self.attempt.data / "validation.jsonl")

    @property
    def test(self) -> Pairs:
        assert self.attempt.test is not None
        return read_jsonl(self.attempt.test)

    @property
    def winner(self) -> dict[str, Any]:
        threshold = self.metrics["threshold"]
        return {"trial": 7, "run": 2, "threshold": threshold, "scores": self.scores}

    def evaluate(self, **changes: Any) -> tuple[float, dict[str, Any]]:
        """Return the value and the user attributes of an evaluation."""
        trial = Trial({})
        final = {
            "winner": {**self.winner, **changes},
            "baselines": self.baselines,
            "candidates": self.candidates,
        }
        trial.set_user_attr("final", json.loads(json.dumps(final)))
        with attempt_context(self.attempt):
            value = self.objective.evaluate(trial)
        assert json.loads(json.dumps(trial.user_attrs)) == trial.user_attrs
        return value, trial.user_attrs

    def without_test(self) -> Case:
        return replace(self, attempt=replace(self.attempt, test=None))


@pytest.fixture(scope="module")
def trained(
    prepared: Prepared, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[float, dict[str, Any]]:
    """Return the value and the user attributes of a trial."""
    trial = Trial(parameters(tiny_model, epochs=2))
    value = run(prepared, tmp_path_factory.mktemp("trial"), trial)
    return value, trial.user_attrs


@pytest.fixture
def case(
    prepared: Prepared, tiny_model: Path, trained: tuple[float, dict[str, Any]], tmp_path: Path
) -> Case:
    objective, study = prepared
    value, found = trained
    directory = tmp_path / "evaluation"
    directory.mkdir()
    attempt = CurrentAttempt(
        number=-1,
        seed=1,
        directory=directory,
        resume=False,
        data=study / "data",
        device="cpu",
        assets={"hpo:winner": Path(found["model"])},
        test=study / "test.jsonl",
    )
    base = str(tiny_model)
    return Case(objective, attempt, base, value, found["metrics"], found[SCORES])


def baseline(model: str, threshold: float | None = 0.8, **params: Any) -> dict[str, Any]:
    return {"params": {"base_model": model, **params}, "threshold": threshold}


def candidate(trial: int, scores: np.ndarray, run: int | None = None) -> dict[str, Any]:
    return {"trial": trial, "run": run, "scores": pack_scores(scores.astype(np.float32))}


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    found: np.ndarray = (first * second).sum(axis=1) / lengths
    return found


def plain_cosines(model: str, pairs: Pairs) -> np.ndarray:
    """Score a model the way any user would, with nothing of this project but the pairs."""
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu")
    return cosines(*(encoder.encode(list(texts)) for texts in (pairs.first, pairs.second)))


def measured(pairs: Pairs, scores: np.ndarray, threshold: float) -> dict[str, float]:
    """Return every measure as sklearn computes it."""
    from sklearn import metrics

    labels, called = np.array(pairs.labels), scores >= threshold
    found = {
        "roc_auc": metrics.roc_auc_score(labels, scores),
        "average_precision": metrics.average_precision_score(labels, scores),
        "accuracy": metrics.accuracy_score(labels, called),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, called),
        "f1": metrics.f1_score(labels, called),
        "precision": metrics.precision_score(labels, called),
        "recall": metrics.recall_score(labels, called),
        "mcc": metrics.matthews_corrcoef(labels, called),
    }
    assert set(found) == set(MEASURES)
    return found


def values(measures: dict[str, dict[str, float]]) -> dict[str, float]:
    assert all(each["low"] <= each["value"] <= each["high"] for each in measures.values())
    return {name: each["value"] for name, each in measures.items()}


def test_measures_and_differences_are_those_of_plain_encoding_and_sklearn(case: Case) -> None:
    value, found = replace(case, baselines=[baseline(case.base)]).evaluate()
    evaluation, pairs = found["evaluation"], case.test
    (other,) = evaluation["baselines"]
    threshold = case.metrics["threshold"]
    winner = str(case.attempt.assets["hpo:winner"])
    expected = measured(pairs, plain_cosines(winner, pairs), threshold)
    untuned = measured(pairs, plain_cosines(case.base, pairs), 0.8)
    assert values(evaluation["measures"]) == pytest.approx(expected, abs=5e-5)
    assert values(other["measures"]) == pytest.approx(untuned, abs=5e-5)
    gains = {name: expected[name] - untuned[name] for name in MEASURES}
    assert values(other["differences"]) == pytest.approx(gains, abs=1e-4)
    assert min(map(abs, (gains["roc_auc"], gains["mcc"]))) > 1e-3  # a wrong sign would show
    assert value == evaluation["measures"]["roc_auc"]["value"]
    assert (other["params"], other["threshold"]) == ({"base_model": case.base}, 0.8)
    assert other["dimension"] == 32
    assert evaluation["threshold"] == threshold
    assert (evaluation["pairs"], evaluation["positives"]) == (len(pairs), pairs.positives)
    assert evaluation["components"] == len(set(components(pairs)))
    assert "fewer than 30" in evaluation["caution"]  # of 60 pairs 24 are positive


def test_a_candidate_like_the_winner_is_as_good_and_a_bad_one_is_not(case: Case) -> None:
    own = unpack_scores(case.scores, len(case.validation), "the winner")
    noise = np.random.default_rng(0).standard_normal(own.size)
    others = [candidate(3, own), candidate(4, -own, run=1), candidate(5, own * 3 - 1)]
    better = candidate(6, own + np.array(case.validation.labels), run=2)
    case = replace(case, candidates=[*others, better, candidate(8, noise)]).without_test()
    value, found = case.evaluate()
    comparison = found["comparison"]
    assert comparison["pairs"] == len(case.validation)
    same, worse, scaled, best, random = comparison["candidates"]
    assert same == {
        "trial": 3,
        "run": None,
        "difference": {"value": 0.0, "low": 0.0, "high": 0.0},
        "as_good": True,
    }
    assert (worse["trial"], worse["run"], worse["as_good"]) == (4, 1, False)
    # A reversed order: the candidate's minus the winner's.
    assert worse["difference"]["value"] == pytest.approx(1 - 2 * value)
    assert worse["difference"]["high"] < 0
    assert scaled["difference"]["value"] == pytest.approx(0, abs=2e-3)
    assert scaled["as_good"]
    assert best["difference"]["low"] > 0
    assert best["as_good"]
    auc = roc_auc(case.validation.labels, noise.astype(np.float32))
    assert random["difference"]["value"] == pytest.approx(auc - value)


def test_without_a_test_split_the_value_is_that_of_the_validation_pairs(case: Case) -> None:
    value, found = case.without_test().evaluate()
    assert value == pytest.approx(case.value, abs=1e-6)
    assert found["comparison"] == {"pairs": len(case.validation), "candidates": []}
    assert "evaluation" not in found


def test_scores_that_were_not_kept_are_made_from_the_model(case: Case) -> None:
    own = unpack_scores(case.scores, len(case.validation), "the winner")
    case = replace(case, candidates=[candidate(3, own)]).without_test()
    value, found = case.evaluate(scores=None)
    assert value == pytest.approx(case.value, abs=1e-3)
    assert found["comparison"]["candidates"][0]["as_good"]


def test_the_comparison_is_settled_before_the_test_split_is_read(case: Case) -> None:
    trial = Trial({})
    final = {"winner": case.winner, "baselines": [], "candidates": []}
    trial.set_user_attr("final", final)
    gone = replace(case.attempt, test=case.attempt.directory / "gone.jsonl")
    with attempt_context(gone), pytest.raises(FileNotFoundError):
        case.objective.evaluate(trial)
    assert trial.user_attrs["comparison"]["pairs"] == len(case.validation)


def test_a_baseline_that_is_gone_does_not_cost_the_rest(case: Case, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{\n")
    wanted = [
        baseline(str(broken)),
        baseline("openai:"),
        baseline(case.base, None),
        baseline(case.base),
    ]
    value, found = replace(case, baselines=wanted).evaluate()
    *failed, last = found["evaluation"]["baselines"]
    for each, given_to in zip(failed, wanted, strict=False):
        assert set(each) == {"params", "error"}
        assert each["params"] == given_to["params"]
        assert 10 < len(each["error"]) <= 300
        assert "\n" not in each["error"]
    assert "one of openai, cohere, voyage" in failed[1]["error"]
    assert "it has no threshold" in failed[2]["error"]
    assert set(last["measures"]) == set(MEASURES)
    assert value == found["evaluation"]["measures"]["roc_auc"]["value"]


def test_one_model_under_two_names_is_encoded_once(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    from objectives import final

    loaded: list[str] = []
    load = final.load_encoder

    def counting(name: Any, *rest: Any) -> Any:
        loaded.append(str(name))
        return load(name, *rest)

    monkeypatch.setattr(final, "load_encoder", counting)
    names = [case.base, f"{case.base}/", case.base, f"{case.base}@layers=2"]
    thresholds = (0.8, 0.8, 2.0, 0.8)
    wanted = [baseline(*each) for each in zip(names, thresholds, strict=True)]
    _, found = replace(case, baselines=wanted).evaluate()
    one, other, third, shorter = found["evaluation"]["baselines"]
    assert loaded == [case.base, f"{case.base}@layers=2"]
    assert one["measures"]["roc_auc"] == other["measures"]["roc_auc"]
    assert one["measures"]["recall"] != third["measures"]["recall"]  # each at its own threshold
    assert shorter["measures"]["roc_auc"] != one["measures"]["roc_auc"]


def test_a_model_behind_an_api_is_asked_for_the_test_texts_once(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason="needs the extra 'apis'")
    name = "openai:text-embedding-3-small"
    wanted = [baseline(name), baseline(name, 0.6), baseline(name, dimension=16)]
    pairs = case.test
    with ApiServer() as server:
        for variable, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(variable, value)
        _, found = replace(case, baselines=wanted).evaluate()
        assert set(server.paid()) == {*pairs.first, *pairs.second}
        assert set(server.paid().values()) == {2}  # once for either dimension
        monkeypatch.delenv("OPENAI_API_KEY")
        other = [baseline("openai:text-embedding-3-large")]
        _, unpaid = replace(case, baselines=other).evaluate()
    one, again, small = found["evaluation"]["baselines"]
    for each, dimension in ((one, 64), (again, 64), (small, 16)):
        first, second = (
            np.stack([vector(text, dimension) for text in texts])
            for texts in (pairs.first, pairs.second)
        )
        expected = measured(pairs, cosines(first, second), each["threshold"])
        assert values(each["measures"]) == pytest.approx(expected, abs=5e-5)
        assert each["dimension"] == dimension
    (refused,) = unpaid["evaluation"]["baselines"]
    assert "set the environment variable OPENAI_API_KEY" in refused["error"]


def test_nothing_of_the_test_split_is_written_or_printed(
    case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    case = replace(case, baselines=[baseline(case.base), baseline("openai:")])
    data = case.attempt.data
    assert data is not None

    def files() -> dict[Path, bytes]:
        roots = (data, case.attempt.directory)
        found = [path for root in roots for path in root.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in found}

    before = files()
    capfd.readouterr()
    _, found = case.evaluate()
    captured = capfd.readouterr()
    assert files() == before
    assert list(case.attempt.directory.iterdir()) == []
    said = json.dumps(found) + captured.out + captured.err
    assert not [text for text in (*case.test.first, *case.test.second) if text in said]
    assert captured.out == ""


@contextmanager
def written(pairs: Pairs, seed: int) -> Iterator[list[Pairs]]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        prepare_data(pairs, "here", root, seed, 30, check=lambda count: None)
        names = ("data/train.jsonl", "data/validation.jsonl", "test.jsonl")
        yield [read_jsonl(root / name) for name in names]


SPELLINGS = (str, str.upper, str.title, lambda text: f" {text.replace(' ', chr(0xA0))}\n")
TEXT = st.builds(
    lambda number, spell: spell(f"ist das straße {number}?"),
    st.integers(0, 40),
    st.sampled_from(SPELLINGS),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.integers(0, 1)), max_size=60), st.integers(0, 3))
def test_the_files_of_train_validation_and_test_share_no_question(
    rows: list[tuple[str, str, int]], seed: int
) -> None:
    rows = rows + [(f"left {i}", f"right {i}", i % 2) for i in range(60)]
    first, second, labels = zip(*rows, strict=True)
    with written(Pairs(first, second, labels), seed) as parts:
        asked = [
            {" ".join(text.lower().split()) for text in (*part.first, *part.second)}
            for part in parts
        ]
    train, validation, test = asked
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert min(map(len, parts)) > 0


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("AAAA", "scores of trial 3, run 1 have 3 bytes, but 2 validation pairs need 8"),
        ("not base64!", "have 0 bytes"),
        (pack_scores(np.array([1, np.nan], np.float32)), "are not all finite"),
    ],
)
def test_damaged_scores_are_refused(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        unpack_scores(text, 2, "trial 3, run 1")


@given(arrays.arrays(np.float32, st.integers(0, 50), elements=st.floats(-1, 1, width=32)))
def test_scores_come_back_as_they_were_packed(scores: np.ndarray) -> None:
    np.testing.assert_array_equal(unpack_scores(pack_scores(scores), scores.size, "x"), scores)


def test_a_winner_whose_model_is_gone_says_so(case: Case) -> None:
    case = replace(case, attempt=replace(case.attempt, assets={}))
    with pytest.raises(RuntimeError, match="the winner's model is not here"):
        case.evaluate()


def test_similarities_do_not_depend_on_the_blocks_they_are_computed_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((40, 8)).astype(np.float32)
    vectors[5] = 0
    first, second = (tuple(random.integers(0, 40, 101).tolist()) for _ in range(2))
    texts = Texts((), first, second, (1,) * 101)
    whole = similarities(vectors, texts)
    monkeypatch.setattr("objectives.evaluation._BLOCK", 10)
    np.testing.assert_array_equal(similarities(vectors, texts), whole)
    zero = [5 in pair for pair in zip(first, second, strict=True)]
    assert any(zero)
    assert (whole[zero] == 0).all()
    others = [not each for each in zero]
    expected = cosines(*(vectors[list(rows)][others] for rows in (first, second)))
    np.testing.assert_allclose(whole[others], expected, atol=1e-6)
