"""What a study came to, in sentences: the top of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpo.budget import dollars
from hpo.report.facts import Facts, Run, mapping, mappings, name_of, number, short, whole
from hpo.report.words import difference, pairs_of, plural, with_interval
from hpo.text import parameter, score

SHOWN_OPENINGS = 3
SHOWN_RIVALS = 4

_WORDS = {"num_samples": "training pairs"}


def conclusions(facts: Facts) -> list[tuple[str, str]]:
    """Return the sentences, each with what it is about."""
    said = list(_winner(facts)) if facts.winner else list(_best_so_far(facts))
    return [*said, *_cheapest(facts), *_openings(facts), ("Trials", _counts(facts)), *_data(facts)]


def _best_so_far(facts: Facts) -> Iterator[tuple[str, str]]:
    if not facts.complete:
        yield "Result", "No trial has completed yet."
        return
    if not facts.single:
        yield (
            "Result",
            f"The study has {len(facts.directions)} directions ({', '.join(facts.directions)}), so "
            "that no single trial is its best; hpo best lists those that none beats in every "
            "direction. The history and the importances are left out here, and where a figure "
            "needs one best trial it takes the one with the lowest error rate.",
        )
        return
    best = facts.best(facts.complete)
    if best is None:
        yield "Result", "No completed trial meets every requirement with a finite value."
        return
    yield (
        "Best so far",
        f"{_describe(best)}, with a {facts.metric} of {score(best.value or 0.0)} on "
        f"{pairs_of([best.measures])} of the validation split. It is the best of "
        f"{plural(len(facts.complete), 'completed trial')} by those same pairs, and so looks "
        "better than it is; no finalist has been run again with new seeds, and there is no winner "
        "yet.",
    )
    yield from _gain(facts, best)


def _gain(facts: Facts, best: Run) -> Iterator[tuple[str, str]]:
    values = [each for each in facts.baselines if each.value is not None]
    if best.value is None or not values:
        return
    gaps = "; ".join(
        f"{name_of(each, facts.models)} {score(each.value or 0.0)} "
        f"({best.value - (each.value or 0.0):+.4f})"
        for each in values[:SHOWN_RIVALS]
    )
    yield "Compared", f"On the same validation pairs: {gaps}."


def _describe(run: Run) -> str:
    parts = [f"Trial {run.number}"]
    if run.model:
        parts.append(short(run.model))
    if run.measures.dimension is not None:
        parts.append(f"{run.measures.dimension:,} dimensions")
    if run.size is not None:
        parts.append(f"{run.size:,} training pairs")
    return ", ".join(parts)


def _winner(facts: Facts) -> Iterator[tuple[str, str]]:
    winner, run = facts.winner, facts.run(facts.winner.get("trial"))
    who = _describe(run) if run is not None else f"Trial {winner.get('trial', '?')}"
    place = winner.get("run")
    again = f", run {place}" if place is not None else ""
    yield "Winner", f"{who}{again}. The validation split chose it."
    yield from _tested(facts)
    yield from _optimism(winner, facts)


def _tested(facts: Facts) -> Iterator[tuple[str, str]]:
    found = facts.evaluation
    measures = mapping(found.get("measures"))
    if not measures:
        yield "Test split", "The test split has not been opened for the winner."
        return
    named = {"roc_auc": "ROC AUC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
    values = "; ".join(
        f"{label} {with_interval(measures[name])}"
        for name, label in named.items()
        if name in measures
    )
    pairs = whole(found.get("pairs"))
    on = f"On {pairs:,} pairs" if pairs is not None else "On pairs"
    yield "Test split", f"{on} that trained and chose nothing (95 % intervals): {values}."
    for each in mappings(found.get("baselines"))[:SHOWN_RIVALS]:
        gaps = mapping(each.get("differences"))
        name = name_of(facts.baseline(each.get("params")), facts.models)
        shown = "; ".join(
            f"{label} {difference(gaps[measure])}, {_verdict(gaps[measure])}"
            for measure, label in named.items()
            if measure in gaps and measure != "balanced_accuracy"
        )
        if shown:
            yield f"Against {name}", f"Winner minus this model, same test pairs: {shown}."
    if found.get("caution"):
        yield "Caution", str(found["caution"])


def _verdict(gap: object) -> str:
    low, high = (number(mapping(gap).get(name)) for name in ("low", "high"))
    if low is None or high is None:
        return "no interval is known"
    if low > 0:
        return "better beyond chance"
    return "worse beyond chance" if high < 0 else "no difference beyond chance"


def _optimism(winner: Mapping[str, Any], facts: Facts) -> Iterator[tuple[str, str]]:
    search = mapping(winner.get("search"))
    searched, mean, gap = (number(search.get(n)) for n in ("value", "mean", "optimism"))
    if searched is None or mean is None or gap is None:
        return
    seeds = whole(winner.get("seeds")) or 1
    judged = f"made it look better, by {gap:.4f}" if gap > 0 else "did not make it look better"
    yield (
        "Optimism",
        f"The search's best, trial {search.get('trial', '?')}, had a {facts.metric} of "
        f"{score(searched)}; {plural(seeds, 'new seed')} gave {score(mean)} on the same validation "
        f"pairs: the search {judged}.",
    )


def _cheapest(facts: Facts) -> Iterator[tuple[str, str]]:
    if not facts.comparison:
        return
    found = mapping(facts.comparison.get("cheapest"))
    if not found:
        yield "Cheaper", "Nothing cheaper is as good as the winner on the validation split."
        return
    run = facts.run(found.get("trial"))
    who = _describe(run) if run is not None else f"Trial {found.get('trial', '?')}"
    saves = "; ".join(
        f"{_WORDS.get(name, name)} {_amount(pair[0])} instead of {_amount(pair[1])}"
        for name, pair in mapping(found.get("saves")).items()
        if isinstance(pair, list | tuple) and len(pair) == 2 and pair[0] != pair[1]
    )
    yield (
        "Cheapest as good",
        f"{who}: ROC AUC minus the winner's {difference(found.get('difference'))} on the "
        f"validation split (95 %), which does not tell them apart. It needs {saves or 'less'}.",
    )


def _amount(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else parameter(value)


def _openings(facts: Facts) -> Iterator[tuple[str, str]]:
    opened = facts.openings
    if not opened:
        if facts.winner or facts.evaluation:
            yield "Test split opened", "Never, as far as the study knows."
        return
    listed = [f"{each.get('at', '?')} for trial {each.get('trial', '?')}" for each in opened]
    more = f"; … {len(listed) - SHOWN_OPENINGS} more" if len(listed) > SHOWN_OPENINGS else ""
    often = "Once" if len(opened) == 1 else f"{len(opened)} times"
    warning = "" if len(opened) == 1 else " Each further look makes its numbers less independent."
    yield "Test split opened", f"{often}: {'; '.join(listed[:SHOWN_OPENINGS])}{more}.{warning}"


def _counts(facts: Facts) -> str:
    order = ("complete", "pruned", "fail", "running", "waiting")
    named = {"fail": "failed"}
    counts = [
        f"{facts.states[state]:,} {named.get(state, state)}"
        for state in order
        if facts.states.get(state)
    ]
    said = f"{', '.join(counts) or 'none yet'}."
    broken = sum(not run.feasible for run in facts.complete)
    if facts.require or broken:
        rules = ", ".join(facts.require) or "its requirements"
        said += f" {broken:,} of the completed ones miss {rules} and cannot win."
    if facts.spent:
        said += f" The study cost {dollars(facts.spent)}."
    return said


def _data(facts: Facts) -> Iterator[tuple[str, str]]:
    found = facts.manifest
    counts = {name: whole(found.get(name)) for name in ("pairs", "train", "validation", "test")}
    if counts["pairs"] is None:
        if facts.models != [""] and facts.complete:
            yield (
                "Data",
                "The record of the data is not on this machine: the study was run elsewhere.",
            )
        return
    source = short(str(found.get("source", "?")))
    splits = " · ".join(f"{name} {n:,}" for name, n in counts.items() if name != "pairs" and n)
    yield (
        "Data",
        f"{source}: {counts['pairs']:,} labelled pairs → {splits}; no text is in two splits.",
    )
