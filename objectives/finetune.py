"""The built-in objective: fine-tune a sentence-transformers model on labelled pairs.

This is what the coordinator handles: options, data, the search space, texts for people. It imports
no torch; the work itself is in ``objectives.trials``, which a worker imports when a trial starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpo import current_attempt
from objectives import space as spaces
from objectives.fixing import fix_point
from objectives.models import ModelName, hub_id, inspect_model, local_path, parse_model
from objectives.origin import origin_of
from objectives.pairs import Pairs
from objectives.prepared import prepare_data
from objectives.space import Configuration, Space

DEFAULT_MODELS = ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2@layers=5")

VALIDATION_PAIRS = 1600
"""At most so many pairs score a trial. At an ROC AUC of .9 their standard error is .008, that of a
difference between two trials a fraction of it, since the pairs are the same. They are all of the
demo's, which one core encodes in 9 s in float32: a fifth of a trial that tunes all of MiniLM on the
1,500 pairs of the smallest default sample (measured)."""


UNUSED_WEIGHTS = ["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot", "tf_model*"]
"""Weights that model repositories hold for other libraries than torch."""


class OptionsError(ValueError):
    """Options that the objective cannot work with."""


class Resolved(BaseModel):
    """What ``prepare`` found out, so that a worker need not.

    Attributes:
        train_pairs: Pairs in the training split.
        dimensions: Length of the embeddings of each base model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_pairs: int
    dimensions: dict[str, int]


class Options(BaseModel):
    """The options of :class:`FineTune`, checked one by one; see there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str = "demo"
    models: tuple[str, ...] | str = DEFAULT_MODELS
    space: dict[str, Any] = {}
    validation_pairs: int = Field(VALIDATION_PAIRS, ge=20)
    resolved: Resolved | None = None


class FineTune:
    """Fine-tune one of several base models; the value is the ROC AUC on the validation pairs.

    Args:
        data: ``demo``, or labelled pairs as ``objectives.reading.read_pairs`` takes them.
        models: Base models: Hugging Face ids or local paths; ``name@layers=3`` keeps three layers.
        space: Changes to the search space by parameter; see ``objectives.space.make_space``.
            ``base_model`` stands for ``models``.
        validation_pairs: At most so many pairs of the validation split score a trial.
        resolved: Set by :meth:`prepare`.

    Raises:
        OptionsError: An unknown option, or one of the wrong type.
        SpaceError: A change to the space that cannot be.
        ModelError: A model's name that cannot be read.
    """

    metric_name = "validation ROC AUC"
    direction = "maximize"
    metrics = (
        "roc_auc",
        "average_precision",
        "threshold",
        "accuracy",
        "balanced_accuracy",
        "f1",
        "precision",
        "recall",
        "mcc",
        "pairs",
        "positives",
        "dimension",
        "parameters",
        "num_samples",
        "steps",
        "train_seconds",
        "evaluation_seconds",
        "pairs_per_second",
    )
    frugality = ("dimension", "parameters", "num_samples")
    # Another space, or other base models, leave the value of a trial what it is.
    search_options = ("models", "space", "resolved.dimensions")
    preload = (
        "torch",
        "transformers.trainer",
        "accelerate",
        "datasets",
        "sentence_transformers",
        "sentence_transformers.sentence_transformer.trainer",
        "objectives.trials",
    )

    def __init__(self, **options: Any) -> None:
        try:
            found = Options.model_validate(options)
        except ValidationError as error:
            raise OptionsError(_explain(error)) from None
        self.data = found.data
        changes = dict(found.space)
        self.models = _models(changes.pop("base_model", found.models))
        self.changes = changes
        self.validation_pairs = found.validation_pairs
        self.resolved = found.resolved
        self.space = spaces.make_space(changes)

    def options(self) -> dict[str, Any]:
        """Return JSON options that build this objective again."""
        return {
            "data": self.data,
            "models": [str(model) for model in self.models],
            "space": self.changes,
            "validation_pairs": self.validation_pairs,
            "resolved": self.resolved.model_dump() if self.resolved is not None else None,
        }

    @property
    def study_name(self) -> str:
        """A name for a study of this objective: that of the data, without directory and ending."""
        path = Path(self.data.partition("@")[0].partition(":")[0])
        generic = path.stem.lower() in ("pairs", "train", "data") and path.parent.name
        return path.parent.name if generic else path.stem or "pairs"

    def prepare(self, directory: Path, seed: int) -> tuple[FineTune, list[str]]:
        """Read, split and write the data, and look up the models; nothing is written if one fails.

        Args:
            directory: The study's directory; see ``objectives.prepared.prepare_data``.
            seed: Seed of the splits.

        Returns:
            The objective fitted to data and models, and lines for people.

        Raises:
            ValueError: A model that cannot be had, data that cannot be used, ``num_samples`` or
                ``dimension`` beyond what there is, or a directory that holds other data.
        """
        if self.resolved is not None:
            return self, []  # done before, on another machine
        dimensions = {str(model): inspect_model(model).dimension for model in self.models}
        spaces.dimensions_for(self.space, dimensions)
        pairs, source, notes = self._read()
        # Splitting is quick; asking for more pairs than there are must not leave files behind.
        manifest, more = prepare_data(
            pairs,
            source,
            directory,
            seed,
            self.validation_pairs,
            check=lambda train_pairs: spaces.fit_to_data(self.space, train_pairs),
        )
        resolved = Resolved(train_pairs=manifest.train, dimensions=dimensions)
        objective = type(self)(**{**self.options(), "resolved": resolved})
        validation = f"{manifest.validation:,}"
        if manifest.validation < manifest.validation_split:
            validation += f" of {manifest.validation_split:,}"
        share = 100 * manifest.positives / manifest.pairs
        lines = [
            f"data  {manifest.pairs:,} pairs ({share:.1f} % duplicates) → "
            f"train {manifest.train:,} · validation {validation} · test {manifest.test:,}, "
            "no question shared"
        ]
        return objective, lines + [f"      {note}" for note in (*notes, *more)]

    def suggest(self, trial: Any) -> None:
        """Draw the parameters of a trial, in the coordinator."""
        self.configuration(trial)

    def configuration(self, trial: Any) -> Configuration:
        """Return the parameters of a trial, drawn or as it has them already."""
        resolved = self._resolved()
        return spaces.draw(trial, self._fitted(), list(resolved.dimensions), resolved.dimensions)

    def fixed(self, params: Mapping[str, Any]) -> FineTune:
        """Return this objective with a space of one point: what one training run does.

        Args:
            params: All parameters of a trial, by name.

        Raises:
            SpaceError: One is missing, unknown or without effect, or cannot have its value.
            ModelError: There is no such base model.
        """

        def dimension_of(name: str) -> int:
            return inspect_model(parse_model(name)).dimension

        base_model, values = fix_point(params, dimension_of)
        changes: dict[str, Any] = {"models": [base_model], "space": values}
        if self.resolved is not None:
            dimensions = {str(parse_model(base_model)): dimension_of(base_model)}
            changes["resolved"] = Resolved(
                train_pairs=self.resolved.train_pairs, dimensions=dimensions
            )
        return type(self)(**{**self.options(), **changes})

    def origin(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is known of a trial's base model; see ``objectives.origin.origin_of``."""
        return origin_of(parse_model(str(params["base_model"])))

    def __call__(self, trial: Any) -> float:
        """Run a trial in a worker; see ``objectives.trials.run_trial``."""
        from objectives.trials import run_trial

        configuration = self.configuration(trial)
        return run_trial(trial, configuration, self._largest_head_sample(), current_attempt())

    def baselines(self) -> list[dict[str, Any]]:
        """Return the parameters of the untuned models, each to be scored by :meth:`baseline`."""
        return [{"base_model": str(model)} for model in self.models]

    def baseline(self, trial: Any) -> float:
        """Score an untuned base model in a worker; sets the trial's ``metrics``."""
        from objectives.trials import score_baseline

        names = [str(model) for model in self.models]
        base_model = str(trial.suggest_categorical("base_model", names))
        return score_baseline(trial, base_model, current_attempt())

    def evaluate(self, trial: Any) -> float:
        """Compare and test a study's winner in a worker; see ``objectives.final.evaluate``."""
        from objectives.final import evaluate

        return evaluate(trial, current_attempt())

    def assets(self) -> dict[str, Path]:
        """Return the base models that lie in a directory of this machine, by name.

        A worker on another machine gets copies; see ``hpo.CurrentAttempt.assets``.
        """
        sources = {model.source for model in self.models}
        found = {source: Path(source).expanduser() for source in sorted(sources)}
        return {source: path.resolve() for source, path in found.items() if path.is_dir()}

    def fetch(self, assets: Mapping[str, Path]) -> None:
        """Fill the Hugging Face cache with the base models that are on no local disk.

        Args:
            assets: Those of :meth:`assets`, where they lie on this machine.
        """
        from huggingface_hub import snapshot_download

        for model in self.models:
            if model.source not in assets and local_path(model.source) is None:
                snapshot_download(hub_id(model.source), ignore_patterns=UNUSED_WEIGHTS)

    def label(self, params: Mapping[str, Any]) -> str:
        """Return a trial in a few words, from whichever parameters it has."""
        words = []
        if "base_model" in params:
            words.append(parse_model(str(params["base_model"])).short)
        dimension = next((v for k, v in params.items() if k.startswith("dimension")), None)
        if dimension is not None:
            words.append(f"{dimension}d")
        if params.get("tuning") in ("frozen", "head"):
            words.append(str(params["tuning"]))
        rate = params.get("learning_rate", params.get("head_learning_rate"))
        if rate is not None:
            words.append(f"lr {rate:.1e}".replace("e-0", "e-"))
        pairs = params.get("num_samples", params.get("head_num_samples"))
        if pairs is not None:
            words.append(f"n={pairs:,}")
        if "loss" in params:
            words.append(str(params["loss"]))
        return " ".join(words)

    def describe(self) -> list[str]:
        """Return the search space for people, one line a parameter."""
        known = self.resolved.dimensions if self.resolved is not None else {}
        return spaces.describe(self._fitted(), [str(model) for model in self.models], known)

    def _read(self) -> tuple[Pairs, str, list[str]]:
        if self.data == "demo":
            from objectives.demo import demo_pairs

            return demo_pairs(), "demo", []
        from objectives.reading import read_pairs

        reading = read_pairs(self.data)
        return reading.pairs, reading.source, list(reading.notes)

    def _resolved(self) -> Resolved:
        if self.resolved is None:
            raise RuntimeError("FineTune must be prepared before its first trial: call prepare()")
        return self.resolved

    def _fitted(self) -> Space:
        if self.resolved is None:
            return self.space
        return spaces.fit_to_data(self.space, self.resolved.train_pairs)

    def _largest_head_sample(self) -> int:
        return int(max(spaces.bounds(self._fitted().domains["head_num_samples"])))


def _models(given: Any) -> tuple[ModelName, ...]:
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise OptionsError(
            "models: give at least one base model, a Hugging Face id or a local path"
        )
    models = tuple(parse_model(str(name)) for text in names for name in str(text).split(","))
    if len(set(models)) < len(models):
        raise OptionsError(f"models: one is named twice: {', '.join(map(str, models))}")
    return models


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "options"
    if first["type"] == "extra_forbidden":
        return f"FineTune has no option {name!r}; it has {', '.join(Options.model_fields)}"
    return f"FineTune: {name}: {first['msg']}, but got {first['input']!r}"
