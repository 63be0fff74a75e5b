"""Writing a report: the page onto a disk, whole or not at all, and its figures into a study."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from optuna import Study

from hpo.errors import InputError

REPORT = "report.html"
"""The page's name in the study's directory."""

MOST_POINTS = 2000
"""Points for single trials in a figure of the page."""

MOST_SAVED_POINTS = 200
"""The same of a figure in a database, which keeps it in pieces of 2,045 characters and hands all of
them to optuna-dashboard with every refresh."""


def write_report(
    study: Study, directory: Path, *, out: Path | None = None, targets: Sequence[float] = ()
) -> Path:
    """Write the report of a study and return where it is.

    Args:
        study: The study.
        directory: The study's directory; need not exist.
        out: Where to write it, if not into that directory.
        targets: Error rates for which the page says how many labelled pairs they take.

    Raises:
        InputError: It cannot be written there.
    """
    from hpo.report.conclusions import conclusions
    from hpo.report.facts import read_facts
    from hpo.report.page import render
    from hpo.report.sections import sections

    facts = read_facts(study, directory)
    parts = sections(study, facts, MOST_POINTS, targets)
    now = datetime.datetime.now(datetime.UTC)
    path = out or directory / REPORT
    _write(path, render(facts.name, conclusions(facts), parts, now))
    return path


def answers(study: Study, directory: Path, error: float) -> list[str]:
    """Say for each base model how many more labelled pairs an error rate takes.

    Args:
        study: The study.
        directory: The study's directory; need not exist.
        error: The error rate.
    """
    from hpo.report.facts import read_facts
    from hpo.report.laws import curves

    found = [f"{each.title}: {each.answer(error)}" for each in curves(read_facts(study, directory))]
    return found or ["cannot be said: no completed trial has an accuracy and a number of pairs"]


def show_in_dashboard(study: Study) -> list[str]:
    """Save the figures into the study, where optuna-dashboard shows them.

    Only whoever owns the study may call this. Figures of an earlier call are written over.

    Returns:
        The figures' ids.
    """
    import plotly.graph_objects as go  # type: ignore[import-untyped]
    from optuna_dashboard import save_plotly_graph_object

    from hpo.report.drawing import for_dashboard
    from hpo.report.facts import read_facts
    from hpo.report.sections import sections

    saved = []
    for part in sections(study, read_facts(study), MOST_SAVED_POINTS):
        for each in part.drawings:
            drawn = go.Figure(for_dashboard(each))
            saved.append(save_plotly_graph_object(study, drawn, graph_object_id=each.name))
    return saved


def _write(path: Path, page: str) -> None:
    """Write ``page`` beside ``path`` and put it there once it is whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(page, encoding="utf-8", errors="replace")
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"cannot write the report to {path} ({error.strerror}): free space, make the directory "
            "writable, or name another file with hpo report --out."
        ) from error
