"""What is said of a study's winner: compared with others on validation, tested on unseen pairs.

Only workers import this module; it is the one place that reads the test split. Whatever the
validation pairs can tell is settled before, so that nothing learnt from the test split can change
it. Of the test texts nothing is written: no embedding is cached where trials could find it.
"""

from __future__ import annotations

import gc
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer

from objectives.apis import ApiModel, is_behind_api
from objectives.encoders import choose_device, load_encoder
from objectives.evaluation import Similarities, Texts, encode, similarities
from objectives.intervals import Estimate, Evaluation, paired_differences
from objectives.metrics import roc_auc
from objectives.models import hub_id, local_path, parse_model
from objectives.pairs import Pairs, read_jsonl
from objectives.prepared import prepared_directory
from objectives.scores import unpack_scores
from objectives.splits import components

if TYPE_CHECKING:
    from hpo import CurrentAttempt

Scored = tuple[Similarities, int]
"""The similarities of some pairs, and the dimension of the vectors behind them."""

WINNER = "hpo:winner"
"""The name among an attempt's assets of the winner's model; no base model is called so."""

ERROR_CHARACTERS = 300
"""What is told at most of why a baseline could not be scored."""


def evaluate(trial: Any, attempt: CurrentAttempt) -> float:
    """Compare and test the winner; return its ROC AUC on the test pairs.

    Sets the trial's ``comparison``: how candidates differ from the winner on the validation pairs.
    Then, where the attempt has a test split, its ``evaluation``: measures of the winner and of
    untuned and closed models there, each at the threshold that was chosen on validation. Without a
    test split the ROC AUC is that of the validation pairs.

    Args:
        trial: Its attribute ``final`` names the winner, the baselines and the candidates.
        attempt: Where the winner's model and the pairs lie, and on what to run.

    Raises:
        RuntimeError: The winner's model is needed, and not here.
        ValueError: Kept scores are not those of the validation pairs.
    """
    final = trial.user_attrs["final"]
    validation = read_jsonl(prepared_directory(attempt.data) / "validation.jsonl")
    kept = final["winner"]["scores"]
    if kept is None:
        scores, _ = _score_winner(attempt, Texts.of(validation))
    else:
        scores = unpack_scores(kept, len(validation), "the winner")
    trial.set_user_attr("comparison", _compare(final, scores, validation))
    if attempt.test is None:
        return roc_auc(validation.labels, scores)
    found = _test(final, attempt, attempt.test)
    trial.set_user_attr("evaluation", found)
    return float(found["measures"]["roc_auc"]["value"])


def _compare(
    final: Mapping[str, Any], winner_scores: Similarities, validation: Pairs
) -> dict[str, Any]:
    """Return how far each candidate's ROC AUC is from the winner's on the validation pairs."""
    clusters = components(validation)
    # ROC AUC depends on no threshold: one for all spares their looking up.
    threshold = float(final["winner"]["threshold"])

    def evaluation(scores: Similarities) -> Evaluation:
        return Evaluation(validation.labels, scores, clusters, threshold)

    winner = evaluation(winner_scores)
    candidates = []
    for each in final["candidates"]:
        run = "" if each["run"] is None else f", run {each['run']}"
        scores = unpack_scores(each["scores"], len(validation), f"trial {each['trial']}{run}")
        difference = _told(paired_differences(evaluation(scores), winner)["roc_auc"])
        candidates.append(
            {
                "trial": each["trial"],
                "run": each["run"],
                "difference": difference,
                "as_good": difference["high"] >= 0,
            }
        )
    return {"pairs": len(validation), "candidates": candidates}


def _test(final: Mapping[str, Any], attempt: CurrentAttempt, test: Path) -> dict[str, Any]:
    """Return the measures of the winner and of the baselines on the test pairs."""
    pairs = read_jsonl(test)
    texts = Texts.of(pairs)
    clusters = components(pairs)

    def evaluation(scores: Similarities, threshold: float) -> Evaluation:
        return Evaluation(pairs.labels, scores, clusters, threshold)

    threshold = float(final["winner"]["threshold"])
    winner = evaluation(_score_winner(attempt, texts)[0], threshold)
    known: dict[tuple[Any, ...], Scored] = {}

    def against(params: Mapping[str, Any], threshold: float | None) -> dict[str, Any]:
        if threshold is None:
            raise ValueError("it has no threshold: its metrics on the validation pairs lack one")
        key, score = _baseline(params, attempt, test, texts)
        if key not in known:
            known[key] = score()
        scores, dimension = known[key]
        other = evaluation(scores, threshold)
        return {
            "params": params,
            "threshold": threshold,
            "dimension": dimension,
            "measures": _all_told(other.measures()),
            "differences": _all_told(paired_differences(winner, other)),
        }

    baselines = []
    for each in final["baselines"]:
        # A model and its card refer to each other: the last one would share the memory with this.
        gc.collect()
        try:
            baselines.append(against(each["params"], each["threshold"]))
        except Exception as error:  # whatever it is, the winner's evaluation is not its price
            baselines.append({"params": each["params"], "error": _one_line(error)})
    return {
        "pairs": len(pairs),
        "positives": pairs.positives,
        "components": len(set(clusters)),
        "caution": winner.caution,
        "threshold": threshold,
        "measures": _all_told(winner.measures()),
        "baselines": baselines,
    }


def _score_winner(attempt: CurrentAttempt, texts: Texts) -> Scored:
    path = attempt.assets.get(WINNER)
    if path is None:
        raise RuntimeError(
            "the winner's model is not here: its attempt names none among its assets; has it been "
            "deleted from the study's directory?"
        )
    device = choose_device(attempt.device)
    return _score(SentenceTransformer(str(path), device=device, local_files_only=True), texts)


def _baseline(
    params: Mapping[str, Any], attempt: CurrentAttempt, test: Path, texts: Texts
) -> tuple[tuple[Any, ...], Callable[[], Scored]]:
    """Return what two names of one model have in common, and what scores it on the test pairs."""
    name = parse_model(params["base_model"])
    source = name.source
    if source not in attempt.assets and is_behind_api(source):
        api = ApiModel(source, test, params.get("dimension"))
        return (source, params.get("dimension")), lambda: api.similarities(print)
    place = attempt.assets.get(source) or local_path(source) or hub_id(source)

    def score() -> Scored:
        return _score(load_encoder(name, choose_device(attempt.device), attempt.assets), texts)

    return (place, name.layers), score


def _score(encoder: SentenceTransformer, texts: Texts) -> Scored:
    embeddings = encode(encoder, texts.texts, precise=True)
    return similarities(embeddings, texts), int(embeddings.shape[1])


def _told(estimate: Estimate) -> dict[str, float]:
    interval = estimate.interval
    return {
        "value": float(estimate.value),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def _all_told(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {name: _told(estimate) for name, estimate in estimates.items()}


def _one_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"
    return textwrap.shorten(text, ERROR_CHARACTERS, placeholder=" …")
