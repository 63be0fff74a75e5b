"""What the finals of a study found, in lines for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna import Study

from hpo.evaluation import COMPARISON, EVALUATION, openings_of
from hpo.model_card import MEASURES
from hpo.text import parameter, score
from hpo.winners import winner_of

SHOWN = ("roc_auc", "average_precision", "accuracy", "f1", "balanced_accuracy")
"""Measures on the test split that a summary shows."""


def final_lines(study: Study) -> list[str]:
    """Say who won, what the winner does on the test split, and what is as good for less.

    Nothing, if the study had no finals.
    """
    winner = winner_of(study)
    return [] if winner is None else [*_winner(winner), *evaluation_lines(study)]


def evaluation_lines(study: Study) -> list[str]:
    """Say what the test split says of the winner, and what is as good for less."""
    winner = winner_of(study)
    evaluation = study.user_attrs.get(EVALUATION, {})
    whose = {name: (winner or evaluation).get(name) for name in ("trial", "run")}
    return [*_test(study, whose), *_cheapest(study.user_attrs.get(COMPARISON, {}), whose)]


def times(count: int) -> str:
    """Say how often something was done."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _winner(winner: Mapping[str, Any]) -> list[str]:
    ranking = winner["ranking"]
    seeds = winner["seeds"]
    over = f"{seeds} new seeds" if seeds != 1 else "a new seed"
    said = f"final trial {winner['trial']} wins: {_spread(winner)} over {over}"
    others = [
        f"trial {each['trial']} " + (_spread(each) if each["eligible"] else f"({each['why']})")
        for each in ranking[1:]
    ]
    lines = [said + (f" · {' · '.join(others)}" if others else "")]
    search = winner["search"]
    if search["optimism"] is not None and math.isfinite(search["optimism"]):
        lines.append(
            f"      optimism of the search {search['optimism']:+.4f}: its best, trial "
            f"{search['trial']}, had {score(search['value'])}, and with new seeds has "
            f"{score(search['mean'])}"
        )
    return lines


def _spread(record: Mapping[str, Any]) -> str:
    return f"{score(record['mean'])} ± {record['std']:.4f}"


def _test(study: Study, winner: Mapping[str, Any]) -> list[str]:
    openings = openings_of(study)
    opened = f"the test split was opened {times(len(openings))}"
    found = study.user_attrs.get(EVALUATION)
    again = f"hpo evaluate --study {study.study_name} opens it"
    if not isinstance(found, Mapping):
        return [f"test  {opened}: {again} again"] if openings else [f"test  not opened: {again}"]
    if (found["trial"], found["run"]) != (winner["trial"], winner["run"]):
        return [f"test  {opened}, for trial {found['trial']} when that had won: {again} again"]
    measures = found["measures"]
    shown = [f"{MEASURES[name]} {_interval(measures[name])}" for name in SHOWN if name in measures]
    lines = [f"test  {shown[0]}" if shown else "test  no measure"]
    lines += [f"      {' · '.join(shown[1:])}"] if shown[1:] else []
    lines.append(f"      on {found['pairs']:,} pairs, with 95 % intervals; {opened}")
    for each in found.get("baselines", ()):
        name = ", ".join(map(str, each["params"].values()))
        if "error" in each:
            lines.append(f"      not compared with {name}: {each['error']}")
        elif "roc_auc" in each.get("differences", {}):
            difference = _interval(each["differences"]["roc_auc"], sign=True)
            lines.append(f"      {difference} in ROC AUC to {name}")
    if found.get("caution"):
        lines.append(f"      {found['caution']}")
    return lines


def _cheapest(compared: Mapping[str, Any], winner: Mapping[str, Any]) -> list[str]:
    if (compared.get("trial"), compared.get("run")) != (winner["trial"], winner["run"]):
        return []
    found = compared["cheapest"]
    if found is None:
        return ["cheap nothing that costs less is as good, within noise"]
    seed = f", seed {found['run']}" if found["run"] is not None else ""
    saved = [
        f"{name} {_amount(mine)} instead of {_amount(theirs)}"
        for name, (mine, theirs) in found["saves"].items()
        if mine != theirs
    ]
    return [
        f"cheap trial {found['trial']}{seed} is as good, within noise: "
        f"{_interval(found['difference'], sign=True)} on {compared['pairs']:,} validation pairs",
        f"      {' · '.join(saved)}",
    ]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else parameter(value)


def _interval(measure: Mapping[str, Any], sign: bool = False) -> str:
    form = "{:+.4f}" if sign else "{:.4f}"
    value, low, high = (form.format(measure[name]) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
