"""A study as a whole run leaves it, made by hand: 64 trials of two base models, and the finals."""

from __future__ import annotations

import datetime
import math
import random
import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

MODELS = ("all-MiniLM-L6-v2", "BAAI/bge-base-en-v1.5")
SIZES = (250, 500, 1000, 2000, 4000, 8000)
DIMENSIONS = (64, 128, 256, 384)
LOSSES = ("OnlineContrastive", "CoSENT")
PAIRS = 4179
START = datetime.datetime(2026, 11, 1, 12, 0)

SPACE: dict[str, BaseDistribution] = {
    "base_model": CategoricalDistribution(MODELS),
    "num_samples": CategoricalDistribution(SIZES),
    "dimension": CategoricalDistribution(DIMENSIONS),
    "loss": CategoricalDistribution(LOSSES),
    "learning_rate": FloatDistribution(3e-5, 3e-4, log=True),
}


def metrics_of(
    error: float, size: int | None, dimension: int, pairs: int = PAIRS
) -> dict[str, Any]:
    """Return metrics as those of a trial."""
    sized = {} if size is None else {"num_samples": size, "parameters": 22_713_216}
    return {
        "roc_auc": 1 - 0.62 * error,
        "average_precision": 1 - 0.9 * error,
        "accuracy": 1 - error,
        "balanced_accuracy": 1 - 1.1 * error,
        "f1": 1 - 1.3 * error,
        "threshold": 0.71,
        "pairs": PAIRS,
        "positives": int(0.376 * PAIRS),
        "dimension": dimension,
        **sized,
    }


def trial_of(number: int, chance: random.Random, paid: bool = True) -> FrozenTrial:
    """Return a trial whose error falls with its number of pairs."""
    model = MODELS[number % 2]
    size, dimension = chance.choice(SIZES), chance.choice(DIMENSIONS)
    rate = 10 ** chance.uniform(math.log10(3e-5), math.log10(3e-4))
    error = 1.1 * size**-0.42 + (0.108 if model == MODELS[0] else 0.098)
    error += 6 / dimension**1.5 + 0.01 * (math.log10(rate) + 4) ** 2
    error += chance.gauss(0, 0.0025)
    began = START + datetime.timedelta(minutes=3 * number)
    seconds = 20 + size / 40 * (1 if model == MODELS[0] else 3)
    attempt = {"id": f"{number}.1.x", "start": began.isoformat(), "cause": "ok"}
    if paid:
        attempt |= {"gpu": "L4", "seconds": seconds, "dollars": round(seconds * 0.000222, 5)}
    pruned = number % 9 == 8
    metrics = metrics_of(error, size, dimension)
    trial = create_trial(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        params={
            "base_model": model,
            "num_samples": size,
            "dimension": dimension,
            "loss": chance.choice(LOSSES),
            "learning_rate": rate,
        },
        distributions=SPACE,
        value=None if pruned else metrics["roc_auc"],
        intermediate_values={50: 0.85},
        user_attrs={"attempts": [attempt], **({} if pruned else {"metrics": metrics})},
    )
    trial.datetime_start = began
    trial.datetime_complete = began + datetime.timedelta(seconds=seconds)
    return trial


def searched(
    storage: Any = None, trials: int = 64, name: str = "pairs-1", paid: bool = True
) -> optuna.Study:
    """Return a study in the middle of its search, with baselines, one of them behind an API."""
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["validation ROC AUC"])
    chance = random.Random(7)
    study.add_trials([trial_of(number, chance, paid) for number in range(trials)])
    if trials > 2:
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"attempts": []}))
    study.set_user_attr("baselines", BASELINES)
    return study


def baseline(model: str, error: float, dimension: int, **more: Any) -> dict[str, Any]:
    """Return a baseline's record."""
    metrics = metrics_of(error, None, dimension)
    params = {"base_model": model, **more.pop("params", {})}
    return {"params": params, "value": metrics["roc_auc"], "metrics": metrics, **more}


BASELINES = [
    baseline(MODELS[0], 0.186, 384),
    baseline(MODELS[1], 0.169, 768),
    baseline(
        "openai:text-embedding-3-small",
        0.166,
        512,
        params={"dimension": 512},
        cost={"dollars": 0.0021, "tokens": 105_000},
        source="openai",
    ),
]


def interval(value: float, half: float) -> dict[str, float]:
    """Return a value with its ends."""
    return {"value": value, "low": value - half, "high": value + half}


def finish(study: optuna.Study) -> None:
    """Add what the finals leave."""
    ranked = sorted(
        (trial for trial in study.trials if trial.value is not None), key=lambda each: -each.value
    )[:3]
    chance = random.Random(11)
    finalists, ranking = [], []
    for trial in ranked:
        values = []
        for run in range(3):
            metrics = dict(trial.user_attrs["metrics"])
            error = 1 - metrics["accuracy"] + 0.002 + chance.gauss(0, 0.001)
            metrics |= metrics_of(error, metrics["num_samples"], metrics["dimension"])
            values.append(metrics["roc_auc"])
            finalists.append(
                {
                    "trial": trial.number,
                    "run": run,
                    "seed": 100 + run,
                    "value": metrics["roc_auc"],
                    "metrics": metrics,
                    "model": None,
                    "violations": {},
                }
            )
        ranking.append({"trial": trial.number, "mean": sum(values) / 3, "values": values})
    first, other = ranked[0], ranked[1]
    mean = ranking[0]["mean"]
    study.set_user_attr("finalists", finalists)
    study.set_user_attr(
        "winner",
        {
            "trial": first.number,
            "run": 1,
            "model": None,
            "value": ranking[0]["values"][1],
            "mean": mean,
            "std": 0.0008,
            "seeds": 3,
            "search": {
                "trial": first.number,
                "value": first.value,
                "mean": mean,
                "optimism": first.value - mean,
            },
            "ranking": ranking,
        },
    )
    gap = interval(-0.0009, 0.0021)
    study.set_user_attr(
        "comparison",
        {
            "trial": first.number,
            "run": 1,
            "pairs": PAIRS,
            "candidates": [
                {"trial": other.number, "run": 0, "difference": gap, "as_good": True},
            ],
            "cheapest": {
                "trial": other.number,
                "run": 0,
                "difference": gap,
                "saves": {
                    name: [other.params[name], first.params[name]]
                    for name in ("dimension", "num_samples")
                },
            },
        },
    )
    study.set_user_attr("evaluation", evaluation(first.number))
    study.set_user_attr(
        "openings", [{"at": "2026-11-01T17:20:00+00:00", "trial": first.number, "run": 1}]
    )
    study.set_user_attr(
        "finalist_attempts",
        [{"trial": first.number, "run": run, "attempts": [{"dollars": 0.05}]} for run in range(3)],
    )


def evaluation(trial: int) -> dict[str, Any]:
    """Return what the test split says of the winner."""

    def measures(error: float) -> dict[str, Any]:
        found = metrics_of(error, None, 384)
        names = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1")
        return {name: interval(found[name], 0.009) for name in names}

    return {
        "trial": trial,
        "run": 1,
        "model": None,
        "at": "2026-11-01T17:20:00+00:00",
        "pairs": 4180,
        "positives": 1571,
        "components": 3012,
        "caution": None,
        "threshold": 0.71,
        "measures": measures(0.131),
        "baselines": [
            {
                "params": each["params"],
                "threshold": 0.8,
                "dimension": each["metrics"]["dimension"],
                "measures": measures(1 - each["metrics"]["accuracy"]),
                "differences": {
                    "roc_auc": interval(0.022, 0.006),
                    "accuracy": interval(0.036, 0.011),
                },
            }
            for each in BASELINES
        ],
    }
