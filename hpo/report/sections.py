"""The parts of a report in their order, with what stands in place of a figure that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna import Study

from hpo.report.drawing import Drawing
from hpo.report.error_figures import MOST_PANELS, error_panels, law_figure
from hpo.report.facts import Facts
from hpo.report.laws import Curve, curves, kinds
from hpo.report.scaling import LEVEL, Prediction, Refusal
from hpo.report.search_figures import by_cost, by_dimension, history, importances
from hpo.report.tables import Table, test_tables, validation_tables

PARTS = (0.95, 0.9)
"""Shares of the error at the most pairs, for which the table of laws asks unless told otherwise."""

TIMES = (2, 4)
"""How many times the most pairs that were tried it asks for."""


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Its heading.
        said: Paragraphs before its figures, or why there are none.
        drawings: Its figures.
        tables: Its tables, below the figures.
    """

    title: str
    said: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(study: Study, facts: Facts, most: int, targets: Sequence[float] = ()) -> list[Section]:
    """Return all parts.

    Args:
        study: The study.
        facts: What is known of it.
        most: The most points for single trials in a figure.
        targets: Error rates that somebody asks about.
    """
    return [
        _models(facts),
        _error(facts, most),
        _scaling(facts, targets),
        _history(facts, most),
        _importances(study, facts),
        _one(
            "ROC AUC by dimension",
            by_dimension(facts, most),
            "No completed trial says both its ROC AUC and the dimension of its embeddings.",
        ),
        _one(
            "ROC AUC by cost",
            by_cost(facts, most),
            "No completed trial says both its ROC AUC and what it cost or how long it took.",
        ),
    ]


def _one(title: str, drawing: Drawing | None, missing: str) -> Section:
    if drawing is None:
        return Section(title, (missing,))
    return Section(title, drawings=(drawing,))


def _models(facts: Facts) -> Section:
    tables = (*test_tables(facts), *validation_tables(facts))
    if not tables:
        return Section("Models", ("No trial recorded measures of a model beside its value.",))
    said = () if facts.evaluation else ("Nothing here was measured on the test split.",)
    return Section("Models", said, tables=tables)


def _error(facts: Facts, most: int) -> Section:
    title = "Error rate by number of labelled pairs"
    panels = error_panels(facts, most)
    if not panels:
        missing = "No completed trial says both its accuracy and the number of pairs it trained on."
        return Section(title, (missing,))
    chosen = f"by {facts.metric}, which the search went after" if facts.single else "by error rate"
    said = (
        "The error rate is 1 − accuracy on the validation split, at the threshold that each model "
        "has from these same pairs. A line is a dimension: at each number of pairs the best "
        f"completed trial that meets the requirements ({chosen}), of more or fewer tried, which is "
        "optimistic. Dashed: models that the study did not train, on the same pairs with a "
        "threshold of their own."
    )
    return Section(title, (said, *_left_out(facts)), tuple(panels))


def _left_out(facts: Facts) -> Iterator[str]:
    count = len(kinds(run for run in facts.complete if run.size)) - MOST_PANELS
    if count > 0:
        yield f"{count} more base models, with the fewest trials, have no figure here."


def _scaling(facts: Facts, targets: Sequence[float]) -> Section:
    title = "How many more labelled pairs?"
    found = curves(facts)[:MOST_PANELS]
    if not found:
        missing = "No completed trial says both its accuracy and the number of pairs it trained on."
        return Section(title, (missing,))
    said = (
        "For each base model the law error = a · n^−b + c is fitted to its own search. A search "
        "tries more often what looks good, and the best of many looks better than the best of "
        "few; so at each number of pairs n equally many draws count, the first ones, pruned trials "
        "among them as draws that lost. The band is where one more such run would lie (95 %, "
        "bootstrap). Later draws of a sampler are better than early ones, which this does not "
        "take out."
    )
    drawings, refused = [], []
    for place, curve in enumerate(found):
        law = curve.law
        if isinstance(law, Refusal):
            refused.append(f"{curve.title}: no law, as {law.reason}.")
        else:
            drawings.append(law_figure(curve, law, place))
    table = _answers(found, targets)
    paragraphs = (said, *refused, *_left_out(facts))
    return Section(title, paragraphs, tuple(drawings), (table,) if table else ())


def _answers(found: Sequence[Curve], targets: Sequence[float]) -> Table | None:
    rows = []
    for curve in found:
        law = curve.law
        if isinstance(law, Refusal):
            continue
        for times in TIMES:
            n = times * curve.most
            if n <= law.furthest:
                rows.append((curve.title, f"{n:,} pairs", _expected(law.predict(n))))
        now = law.predict(curve.most).error
        asked = targets or [round(now * part, 3) for part in PARTS]
        rows += [
            (curve.title, f"an error rate of {error:.4g}", curve.answer(error))
            for error in dict.fromkeys(asked)
        ]
    if not rows:
        return None
    said = (
        "What the laws expect of one more such run, which has more pairs or is to make fewer "
        f"errors, each with its {100 * LEVEL:.0f} % interval. hpo report --error X asks for "
        "another error rate."
    )
    return Table("What more pairs would bring", said, ("model", "for", "expected"), tuple(rows), 3)


def _expected(found: Prediction) -> str:
    return f"an error rate of {found.error:.4f} ({found.low:.4f} to {found.high:.4f})"


def _history(facts: Facts, most: int) -> Section:
    missing = "No trial has completed with a finite value."
    if not facts.single:
        missing = "Left out: the study has several directions, and so no best value so far."
    return _one("Optimisation history", history(facts, most), missing)


def _importances(study: Study, facts: Facts) -> Section:
    found = importances(study, facts)
    title = "Parameter importances"
    return Section(title, (found,)) if isinstance(found, str) else _one(title, found, "")
