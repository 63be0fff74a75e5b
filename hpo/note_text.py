"""What the notes in optuna-dashboard say, as Markdown: of a study, and of a finished trial."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.attempts import Attempt, read_attempts
from hpo.budget import dollars, limit_text
from hpo.feasible import is_feasible
from hpo.importing import IMPORTED
from hpo.plan import Plan
from hpo.requirements import MissingMetricError, Requirement, metric_of
from hpo.retention import MODEL
from hpo.status import Status
from hpo.text import duration, parameter, score

STUDY_LIMIT = 1900
"""Longest note of a study: one piece of 2,045 characters with its frame."""

TRIAL_LIMIT = 600
"""Longest note of a trial; the dashboard sends all of them with a study."""

_BARS = "▁▂▃▄▅▆▇█"
_POINTS = 6
_ATTEMPTS = 3
_FINALS = 4


def study_note(
    status: Status,
    plan: Plan,
    best: FrozenTrial | None,
    causes: Counter[str],
    ended: str,
    finals: Sequence[str] = (),
) -> str:
    """Return the note of a study.

    Args:
        status: Where it stands.
        plan: What it is to do.
        best: The best feasible trial.
        causes: How many attempts of finished trials ended for which cause.
        ended: How the run ended; empty while it goes on.
        finals: Who won, and how the winner does on the test split, line by line.
    """
    tail = [
        _finals(finals),
        _budget(status),
        _limits(status, plan),
        _causes(causes),
        _infeasible(status, plan),
    ]
    if ended:
        tail.append(f"**Ended:** {escape(ended, 200)}")

    def make(rows: int) -> str:
        parts = [_best(status, best)]
        if best is not None:
            names = [
                [escape(name, 40), escape(parameter(value), 60)]
                for name, value in best.params.items()
            ]
            parts += [
                _table(("parameter", "value"), names, rows),
                _table(("metric", "value", "required"), _metrics(best, status, plan), rows),
            ]
        return "\n\n".join(part for part in [*parts, *tail] if part)

    return _fitted(make, 24, STUDY_LIMIT)


def trial_note(trial: FrozenTrial, metric: str | None, requirements: Sequence[Requirement]) -> str:
    """Return the note of a finished trial.

    Args:
        trial: The trial.
        metric: What the study calls a trial's value.
        requirements: What the study requires of a trial.
    """
    attempts = read_attempts(trial.user_attrs)
    model = trial.user_attrs.get(MODEL) if trial.state is TrialState.COMPLETE else None
    origin = trial.user_attrs.get(IMPORTED)
    tail = [
        _curve(trial.intermediate_values),
        _attempts(attempts),
        f"from trial {origin['number']} of study {escape(origin['study'], 60)}" if origin else "",
        f"model {_path(model)}" if isinstance(model, str) else "",
    ]
    metrics = _metric_rows(trial.user_attrs.get("metrics"))

    def make(rows: int) -> str:
        parts = [_headline(trial, metric, requirements), _table(("metric", "value"), metrics, rows)]
        return "\n\n".join(part for part in [*parts, *tail] if part)

    return _fitted(make, 16, TRIAL_LIMIT)


def escape(text: object, most: int) -> str:
    """Return ``text`` in one line of at most ``most`` characters, with no Markdown in it."""
    line = " ".join(str(text).split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", line)


# The parts of a study's note.


def _best(status: Status, best: FrozenTrial | None) -> str:
    if best is None or status.best is None:
        if status.complete > 0 and status.complete == status.infeasible:
            return "**No feasible trial yet.** None of the completed ones meets every requirement."
        return "" if status.complete > 0 else "**No trial has completed yet.**"
    value, number = status.best
    said = f"**Best feasible trial: {number}** · {_named(status.metric, value)}"
    gain = status.gain()
    if status.baseline is not None and gain is not None:
        untuned, name = status.baseline
        said += f" ({escape(name, 60)} untuned {score(untuned)}, {gain:+.4f})"
    return said


def _finals(lines: Sequence[str]) -> str:
    return "  \n".join(escape(line, 160) for line in lines[:_FINALS])


def _metrics(best: FrozenTrial, status: Status, plan: Plan) -> list[list[str]]:
    """Return a row a metric of the best trial, those with requirements first."""
    metrics = best.user_attrs.get("metrics")
    required = []
    for each in plan.requirements:
        try:
            value = _number(metric_of(each.metric, metrics, best.value, status.metric))
        except MissingMetricError:
            value = "missing"
        met = "met" if best.constraints.get(str(each), 1.0) <= 0 else "**not met**"
        required.append(
            [escape(each.metric, 40), value, f"{escape(each.comparison, 2)} {each.bound:g} {met}"]
        )
    named = {row[0] for row in required}
    return required + [[*row, ""] for row in _metric_rows(metrics) if row[0] not in named]


def _budget(status: Status) -> str:
    return (
        f"**Budget:** {status.finished:,} of {status.trials:,} trials finished "
        f"({status.complete:,} complete, {status.pruned:,} pruned) · {status.failed:,} failed · "
        f"{len(status.running)} running"
    )


def _limits(status: Status, plan: Plan) -> str:
    limits = [f"{plan.max_failures} failed trials"]
    if plan.timeout is not None:
        limits.append(f"{duration(plan.timeout)} of a run")
    if plan.target is not None:
        limits.append(f"a value of {plan.target:g}")
    if plan.patience is not None:
        limits.append(f"{plan.patience} trials without a better one ({status.since_best} so far)")
    if plan.max_cost is not None:
        limits.append(f"{limit_text(plan.max_cost)} ({dollars(status.spent)} so far)")
    return f"**Ends early at:** {', '.join(limits)}"


def _causes(causes: Counter[str]) -> str:
    if not causes:
        return ""
    counted = (f"{escape(cause, 20)} {count:,}" for cause, count in causes.most_common())
    return f"**How attempts ended:** {' · '.join(counted)}"


def _infeasible(status: Status, plan: Plan) -> str:
    if status.infeasible == 0:
        return ""
    required = ", ".join(escape(each, 60) for each in plan.requirements[:4])
    said = f"**Infeasible:** {status.infeasible:,} of the completed trials miss a requirement"
    said += f" ({required})." if required else "."
    if status.best is not None:
        said += (
            " optuna-dashboard 0.21 by itself may call one of them best; the best feasible one is "
            f"trial {status.best[1]}."
        )
    return said


# The parts of a trial's note.


def _headline(trial: FrozenTrial, metric: str | None, requirements: Sequence[Requirement]) -> str:
    said = f"**{trial.state.name.lower() if trial.state is not TrialState.FAIL else 'failed'}**"
    if trial.values:
        said += " · " + ", ".join(_named(metric, value) for value in trial.values[:3])
    if trial.state is TrialState.COMPLETE and not is_feasible(trial):
        broken = [key for key, value in trial.constraints.items() if value > 0]
        said += f" · **infeasible**: not {', '.join(escape(key, 40) for key in broken[:3])}"
    elif trial.state is TrialState.COMPLETE and requirements:
        said += " · feasible"
    return said


def _curve(steps: Mapping[int, float]) -> str:
    """Return a learning curve as bars, with some of its points as numbers."""
    if not steps:
        return ""
    points = sorted(steps.items())
    finite = [value for _, value in points if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    bars = "".join(_bar(value, low, high) for _, value in _sample(points, 24))
    shown = (f"{step}: {_number(value)}" for step, value in _sample(points, _POINTS))
    return f"curve {bars} {' · '.join(shown)}"


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return "×"
    # Halved first: the difference of two floats may be infinite.
    height = (value / 2 - low / 2) / (high / 2 - low / 2) if high / 2 > low / 2 else 0.5
    return _BARS[min(int(height * len(_BARS)), len(_BARS) - 1)]


def _sample(points: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """Return at most ``most`` points at even distances, with the first and the last."""
    if len(points) <= most:
        return points
    last = len(points) - 1
    return [points[round(index * last / (most - 1))] for index in range(most)]


def _attempts(attempts: Sequence[Attempt]) -> str:
    said = [_attempt(number, each) for number, each in enumerate(attempts, 1)][-_ATTEMPTS:]
    if len(attempts) > _ATTEMPTS:
        said.insert(0, f"{len(attempts) - _ATTEMPTS} earlier attempts")
    return " · ".join(said)


def _attempt(number: int, attempt: Attempt) -> str:
    said = f"attempt {number}: {attempt.cause or 'not ended'}"
    if attempt.machine is not None:
        device = f" ({escape(attempt.device, 10)})" if attempt.device is not None else ""
        said += f", {escape(attempt.machine, 30)}{device}"
    if attempt.end is not None:
        took = datetime.fromisoformat(attempt.end) - datetime.fromisoformat(attempt.start)
        said += f", {duration(max(0.0, took.total_seconds()))}"
    return said + (f": {escape(attempt.message, 70)}" if attempt.message else "")


# The parts of both.


def _path(path: str) -> str:
    """Return a path, of a long one its end."""
    return escape(path if len(path) <= 100 else "…" + path[-99:], 100)


def _metric_rows(metrics: object) -> list[list[str]]:
    if not isinstance(metrics, Mapping):  # an objective may set anything
        return []
    return [[escape(name, 40), _number(value)] for name, value in metrics.items()]


def _number(value: Any) -> str:
    return score(value) if isinstance(value, float) else escape(value, 30)


def _named(metric: str | None, value: float) -> str:
    return f"{escape(metric or 'value', 40)} **{score(value)}**"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> str:
    """Return a table with at most ``most`` rows; what is left out is counted."""
    if not rows:
        return ""
    if most == 0:
        return f"{len(rows)} × {head[0]} left out"
    lines = [head, ["---"] * len(head), *rows[:most]]
    if len(rows) > most:
        lines.append([f"… {len(rows) - most} more", *[""] * (len(head) - 1)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _fitted(make: Callable[[int], str], rows: int, limit: int) -> str:
    """Return ``make(n)`` with the largest n up to ``rows`` that keeps the limit."""
    for count in range(rows, -1, -1):
        text = make(count)
        if len(text) <= limit:
            return text
    return text[: limit - 1] + "…"
