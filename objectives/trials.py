"""What one trial does, from its configuration to its value and the model it leaves.

Only workers import this module. ``objectives.finetune`` is what the coordinator sees of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from sentence_transformers import SentenceTransformer

from objectives.cache import cached_embeddings
from objectives.encoders import (
    choose_device,
    count_parameters,
    freeze_lower,
    has_bf16,
    load_encoder,
    save_encoder,
    set_dimension,
    set_dropout,
)
from objectives.evaluation import Matrix, Texts, encode, measure, score, similarities
from objectives.metrics import summarise
from objectives.models import parse_model
from objectives.pairs import Pairs, read_jsonl
from objectives.prepared import prepared_directory
from objectives.scores import SCORES, pack_scores
from objectives.space import Configuration
from objectives.training import Run, Trained, remove_checkpoints, train

if TYPE_CHECKING:
    from hpo import CurrentAttempt

PROBE_PAIRS = 300
"""Validation pairs of a probe: the same ones for every trial, so that pruners compare like with
like. A head, whose texts are embedded already, is probed on all."""

PROBE_PERCENTS: tuple[tuple[int, ...], ...] = ((), (50,), (25, 50), (25, 50, 75))
"""When to probe, by how many probes a trial can afford."""

EVALUATION_SHARE = 1 / 3
"""Evaluation may take this much of the time of training, that is a quarter of both."""

TRAINING = 3.9
"""Cost of training on a text, in bfloat16 forward passes without dropout (measured, one core)."""

FLOAT32 = 1.8
"""Cost of encoding in float32 where bfloat16 is fast, in bfloat16 passes (measured: 1.75 to
1.9)."""

CHEAP_PROBE = 0.1
"""A probe half-way is worth this share of training even where the final evaluation alone exceeds
:data:`EVALUATION_SHARE`: a trial pruned there saves both the other half and the final
evaluation."""


@dataclass(frozen=True)
class Data:
    """What a trial may see: the pairs that ``prepare`` wrote, in the order of its fixed shuffle.

    Attributes:
        train: Training pairs.
        validation: Validation pairs.
        directory: Where they lie.
        models: Where local base models lie, if not where their names say.
    """

    train: Pairs
    validation: Pairs
    directory: Path
    models: Mapping[str, Path]

    @classmethod
    def of(cls, attempt: CurrentAttempt) -> Data:
        """Read what :func:`objectives.prepared.prepare_data` wrote.

        Raises:
            RuntimeError: There is no prepared data.
        """
        directory = prepared_directory(attempt.data)
        return cls(
            read_jsonl(directory / "train.jsonl"),
            read_jsonl(directory / "validation.jsonl"),
            directory,
            attempt.assets,
        )

    @property
    def cache(self) -> Path:
        """Where embeddings of untuned models are kept."""
        return self.directory / "embeddings"


class TextInputs:
    """Pairs of texts for a whole encoder; see :class:`objectives.training.Inputs`."""

    def __init__(self, model: SentenceTransformer, pairs: Pairs) -> None:
        self.model = model
        # encode() puts the default prompt before each text; training must see the same texts.
        self.prompt = model.prompts.get(model.default_prompt_name or "") or None
        self.rows: Mapping[str, Sequence[Any]] = {
            "first": pairs.first,
            "second": pairs.second,
            "label": pairs.labels,
        }
        self.lengths = [max(len(first), len(second)) for first, second, _ in pairs]

    def features(self, first: list[str], second: list[str]) -> Mapping[str, Any]:
        """Return the tokens of all texts, padded to the longest."""
        return self.model.preprocess(first + second, prompt=self.prompt)


class EmbeddingInputs:
    """Pairs of cached embeddings for a head; see :class:`objectives.training.Inputs`."""

    def __init__(self, embeddings: Matrix, texts: Texts) -> None:
        self.embeddings = torch.from_numpy(embeddings)
        self.rows: Mapping[str, Sequence[Any]] = {
            "first": texts.first,
            "second": texts.second,
            "label": texts.labels,
        }
        self.lengths = [1] * len(texts.labels)

    def features(self, first: list[int], second: list[int]) -> Mapping[str, Any]:
        """Return the embeddings of all texts."""
        return {"sentence_embedding": self.embeddings[first + second]}


def score_baseline(trial: Any, base_model: str, attempt: CurrentAttempt) -> float:
    """Score an untuned base model on the validation pairs; sets the trial's ``metrics``."""
    data = Data.of(attempt)
    texts = Texts.of(data.validation)
    started = time.perf_counter()
    name = parse_model(base_model)
    encoder = load_encoder(name, choose_device(attempt.device), attempt.assets)
    embeddings = _untuned(encoder, base_model, texts.texts, data, precise=True)
    metrics = measure(embeddings, texts)
    metrics["evaluation_seconds"] = round(time.perf_counter() - started, 3)
    metrics["dimension"] = encoder.get_embedding_dimension()
    metrics["parameters"] = count_parameters(encoder)
    trial.set_user_attr("metrics", metrics)
    return float(metrics["roc_auc"])


def run_trial(
    trial: Any, configuration: Configuration, largest_head_sample: int, attempt: CurrentAttempt
) -> float:
    """Train, score and save; return the validation ROC AUC.

    Reports the score of a probe at some percents of the run, and the returned value at 100. Sets
    the trial's ``metrics``, ``model`` (the path of the saved model) and scores (see
    ``objectives.scores``).

    Args:
        trial: An Optuna trial: for its reports and attributes; its parameters are drawn already.
        configuration: What to do.
        largest_head_sample: The largest ``head_num_samples`` of the space: cached embeddings cover
            it.
        attempt: Where, on what, and whether to resume.

    Raises:
        optuna.TrialPruned: The trial should be pruned.
        FloatingPointError: Training has diverged.
    """
    directory = attempt.directory
    model_path = directory / "model"
    shutil.rmtree(model_path, ignore_errors=True)
    if not attempt.resume:
        remove_checkpoints(directory)
    data = Data.of(attempt)
    device = choose_device(attempt.device)
    encoder = load_encoder(parse_model(configuration.base_model), device, attempt.assets)
    tune = _tune_head if configuration.tuning == "head" else _tune_encoder

    def report(percent: int, value: float) -> None:
        trial.report(value, percent)
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned at {percent} % with {value:.4f}")

    trained, embeddings = tune(encoder, configuration, data, largest_head_sample, attempt, report)
    texts = Texts.of(data.validation)
    started = time.perf_counter()
    if embeddings is None:
        embeddings = encode(encoder, texts.texts, precise=True)
    scores = similarities(embeddings, texts)
    metrics = summarise(texts.labels, scores)
    final_seconds = time.perf_counter() - started
    metrics |= {
        "dimension": int(embeddings.shape[1]),
        "parameters": count_parameters(encoder),
        "num_samples": configuration.num_samples,
        "steps": trained.steps,
        "train_seconds": round(trained.train_seconds, 3),
        "evaluation_seconds": round(trained.probe_seconds + final_seconds, 3),
        "pairs_per_second": round(trained.pairs_per_second, 1),
    }
    save_encoder(encoder, model_path)
    remove_checkpoints(directory)
    trial.set_user_attr("metrics", metrics)
    trial.set_user_attr("model", str(model_path))
    trial.set_user_attr(SCORES, pack_scores(scores))
    value = float(metrics["roc_auc"])
    trial.report(value, 100)
    return value


def _tune_encoder(
    encoder: SentenceTransformer,
    configuration: Configuration,
    data: Data,
    largest_head_sample: int,
    attempt: CurrentAttempt,
    report: Any,
) -> tuple[Trained, Matrix | None]:
    """Tune the encoder itself; return what it took, and no embeddings."""
    pairs = data.train.take(range(configuration.num_samples))
    every = Texts.of(data.validation)
    texts = Texts.of(_probe_pairs(data))
    bf16 = has_bf16(encoder.device.type)
    probes = affordable_probes(configuration, len(texts.texts), len(every.texts), bf16)
    offset = 0.0
    if probes and len(texts.labels) < len(every.labels):
        untuned = _untuned(encoder, configuration.base_model, every.texts, data, precise=True)
        offset = probe_offset(untuned, every, texts)
    set_dimension(encoder, configuration.dimension, trained=configuration.projection == "dense")
    set_dropout(encoder, configuration.dropout or 0.0)
    if configuration.frozen_share is not None:
        freeze_lower(encoder, configuration.frozen_share)

    def probe() -> float:
        found = score(encode(encoder, texts.texts, precise=False), texts)
        return min(1.0, max(0.0, found + offset))

    run = _run(configuration, attempt, bf16, probes)
    return train(encoder, TextInputs(encoder, pairs), run, probe, report, attempt.resume), None


def _tune_head(
    encoder: SentenceTransformer,
    configuration: Configuration,
    data: Data,
    largest_head_sample: int,
    attempt: CurrentAttempt,
    report: Any,
) -> tuple[Trained, Matrix | None]:
    """Train a linear map on the encoder's embeddings and add it to the encoder.

    The map has no bias and comes before Normalize, so that it makes no difference whether the
    cached embeddings are normalised. They are in bfloat16 for training, and in float32 for scoring.
    """
    name = configuration.base_model
    every = Texts.of(data.train.take(range(largest_head_sample)))
    known = _untuned(encoder, name, every.texts, data, precise=False)
    texts = Texts.of(data.validation)
    validation = _untuned(encoder, name, texts.texts, data, precise=True)
    # Both orders are those of the pairs: a prefix of the pairs needs a prefix of the embeddings.
    sample = Texts.of(data.train.take(range(configuration.num_samples)))
    linear = set_dimension(encoder, configuration.dimension, trained=True)
    assert linear is not None
    head = SentenceTransformer(modules=[linear], device=str(encoder.device))
    head.model_card_data.local_files_only = True

    def apply(embeddings: Matrix) -> Matrix:
        with torch.inference_mode():
            source = torch.from_numpy(embeddings).to(head.device)
            found: Matrix = linear.linear(source).cpu().numpy()
        return found

    def probe() -> float:
        return score(apply(validation), texts)

    inputs = EmbeddingInputs(known[: len(sample.texts)], sample)
    run = _run(configuration, attempt, False, PROBE_PERCENTS[-1])
    trained = train(head, inputs, run, probe, report, attempt.resume)
    return trained, apply(validation)


def probe_offset(untuned: Matrix, every: Texts, texts: Texts) -> float:
    """Return by how much the untuned model scores higher on all validation pairs than on a probe.

    Added to a probe's score it gives an estimate of the score on all pairs with less noise than the
    probe's own. The untuned model is a control variate: both models find the same pairs hard (Owen,
    Monte Carlo theory, methods and examples, chapter 8). Without it, what people see at 75 % and at
    100 % would not compare.

    Args:
        untuned: The untuned model's embeddings of ``every.texts``.
        every: All validation pairs.
        texts: The probe's, a prefix of them.
    """
    return score(untuned, every) - score(untuned[: len(texts.texts)], texts)


def _run(
    configuration: Configuration, attempt: CurrentAttempt, bf16: bool, probes: tuple[int, ...]
) -> Run:
    return Run(
        loss=configuration.loss,
        learning_rate=configuration.learning_rate,
        epochs=configuration.epochs,
        batch_size=configuration.batch_size,
        warmup=configuration.warmup,
        seed=attempt.seed,
        bf16=bf16,
        directory=attempt.directory,
        probes=probes,
        commit=attempt.commit,
    )


def affordable_probes(
    configuration: Configuration, probe_texts: int, final_texts: int, bf16: bool
) -> tuple[int, ...]:
    """Return the percents at which to probe so that evaluation stays below a quarter of the trial.

    Costs are counted in texts passed forward through the model once. The final evaluation is always
    made, so a short trial has one probe if that is cheap, or none.
    """
    text = 1 + (TRAINING - 1) * (1 - (configuration.frozen_share or 0.0))
    training = 2 * configuration.num_samples * configuration.epochs * text
    left = EVALUATION_SHARE * training - final_texts * (FLOAT32 if bf16 else 1.0)
    least = 1 if probe_texts <= CHEAP_PROBE * training else 0
    return PROBE_PERCENTS[max(least, min(int(left / probe_texts), len(PROBE_PERCENTS) - 1))]


def _probe_pairs(data: Data) -> Pairs:
    return data.validation.take(range(min(PROBE_PAIRS, len(data.validation))))


def _untuned(
    encoder: SentenceTransformer, name: str, texts: tuple[str, ...], data: Data, precise: bool
) -> Matrix:
    """Return the embeddings by an encoder that is still the base model ``name``."""
    source = parse_model(name).source
    return cached_embeddings(
        data.cache,
        # A place that is named by its content tells apart what other studies call the same.
        f"{name}:{data.models[source]}" if source in data.models else name,
        texts,
        "float32" if precise else "bfloat16",
        lambda: encode(encoder, texts, precise),
    )
