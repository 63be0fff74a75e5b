"""The command that reports what a study found; ``hpo.cli`` puts it on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli_common import database_errors, errors, say
from hpo.cli_study import Name, Storage

if TYPE_CHECKING:
    from hpo.queries import Found


def report(
    study: Name = None,
    storage: Storage = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write the page. [default: report.html where the study was run, "
            "else in runs/STUDY]",
        ),
    ] = None,
    error: Annotated[
        list[float] | None,
        typer.Option(
            metavar="RATE",
            help="Say how many more labelled pairs bring the error rate down to this, such as "
            "0.12. Repeatable.",
        ),
    ] = None,
) -> None:
    """Write what a study found as one page, and put its figures into its dashboard.

    The page needs no network. While a coordinator runs the study, the dashboard stays as it is.
    """
    with errors(), database_errors():
        from hpo.errors import InputError
        from hpo.queries import find_study
        from hpo.report import answers, write_report

        targets = error or []
        for rate in targets:
            if not 0 < rate < 1:
                raise InputError(
                    f"--error {rate:g}: an error rate is above 0 and below 1; 0.12 is one pair in "
                    "eight."
                )
        found = find_study(study, storage)
        directory = _directory(found)
        say(f"report {write_report(found.study, directory, out=out, targets=targets)}")
        for rate in targets:
            for line in answers(found.study, directory, rate):
                say(f"error {rate:g}  {line}")
        _show(found)


def _directory(found: Found) -> Path:
    """Return the study's directory: where it was run, if that is on this machine."""
    from hpo.queries import recorded_directory

    recorded = recorded_directory(found.study)
    if recorded is not None and recorded.is_dir():
        return recorded
    return Path(found.settings.out) / found.study.study_name


def _show(found: Found) -> None:
    """Put the figures into the study, unless somebody else writes there."""
    from hpo.queries import is_snapshot
    from hpo.report import show_in_dashboard
    from storage import OwnedError, own_study

    url, name = found.settings.storage, found.study.study_name
    if is_snapshot(url):
        say("the figures are not in the dashboard: a snapshot on Modal can only be read")
        return
    try:
        with own_study(url, name):
            saved = show_in_dashboard(found.study)
    except OwnedError as error:
        say(f"the figures are not in the dashboard: the study is run by {error.owner}")
        return
    if saved:
        say(f"{len(saved)} figures are in the dashboard, too: hpo dashboard --study {name}")
