"""The commands that ask about studies; ``hpo.cli`` puts them on the command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from hpo.cli_common import database_errors, errors, say

Storage = Annotated[
    str | None,
    typer.Option(
        help="Database URL: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; or "
        "modal://VOLUME/FILE.db, what a coordinator on Modal keeps."
    ),
]

Name = Annotated[
    str | None, typer.Option("--study", help="Name of the study. [default: the only one]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def _questions() -> Iterator[None]:
    """Turn errors into messages, and end in silence when whoever reads has read enough."""
    # As any program in a pipe does: hpo trials | head. Python would print a traceback.
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with errors(), database_errors():
            yield
        sys.stdout.flush()
    finally:
        # Whoever called this from Python does not want to end by a pipe of its own.
        signal.signal(signal.SIGPIPE, before)


def studies(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the studies of a database: trials by state, the best value, and who runs them."""
    with _questions():
        from hpo.queries import describe_study, open_for_questions, study_rows
        from hpo.strict_json import to_json

        rows = study_rows(*open_for_questions(None, storage))
        if as_json:
            print(to_json(rows, indent=2))
            return
        for row in rows:
            print(describe_study(row))


def best(study: Name = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show the winner of a study, or else its best trial, and where its model is."""
    with _questions():
        from hpo.evaluation import COMPARISON, EVALUATION, OPENINGS
        from hpo.final_text import final_lines
        from hpo.finalists import WINNER
        from hpo.queries import best_trials, find_study, requirement_lines
        from hpo.strict_json import to_json
        from hpo.summary import baselines_of, describe, trial_row
        from hpo.text import score
        from hpo.winners import choice_of

        found = find_study(study, storage)
        trials = best_trials(found)
        if as_json:
            records = [trial_row(trial) for trial in trials]
            several = len(found.study.directions) > 1
            finals = {
                name: found.study.user_attrs[name]
                for name in (WINNER, COMPARISON, EVALUATION, OPENINGS)
                if name in found.study.user_attrs
            }
            print(to_json(records if several else {**records[0], **finals}, indent=2))
            return
        for trial in trials:
            print(describe(trial))
            chosen = choice_of(found.study, trial)
            for line in final_lines(found.study):
                print(line)
            for name, value in chosen.metrics.items():
                print(f"  {name}: {score(value) if isinstance(value, float) else value}")
            for line in requirement_lines(found.study, trial):
                print(f"  {line}")
            if chosen.model:
                print(f"  model: {chosen.model}")
        for record in baselines_of(found.study):
            names = ", ".join(map(str, record["params"].values()))
            print(f"untuned {names}: {score(record['value'])}")


def trials(
    study: Name = None,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one trial a line.")] = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: a column a parameter (param.NAME) and metric.")
    ] = False,
) -> None:
    """List the trials of a study."""
    with _questions():
        from hpo.errors import InputError
        from hpo.queries import find_study, write_csv
        from hpo.strict_json import to_json
        from hpo.summary import describe, trial_row

        if as_json and as_csv:
            raise InputError("--json and --csv exclude each other: give one of them.")
        found = find_study(study, storage).study
        listed = found.get_trials(deepcopy=False)
        if as_csv:
            write_csv(listed, len(found.directions), sys.stdout)
            return
        for trial in listed:
            row = trial_row(trial)
            if as_json:
                print(to_json(row))
                continue
            why = [row["cause"]] if row["cause"] not in (None, "ok", "pruned") else []
            why += [] if row["feasible"] else ["infeasible"]
            state = row["state"] + (f" ({', '.join(why)})" if why else "")
            print(f"{state} · {describe(trial)}")


def enqueue(
    params: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="A parameter, or a JSON object of several. Repeatable. The rest is drawn.",
        ),
    ],
    study: Name = None,
    storage: Storage = None,
) -> None:
    """Queue a trial with these parameters, while the study runs or before it does."""
    with _questions():
        from hpo.enqueue import enqueue as add
        from hpo.enqueue import parse_params
        from hpo.queries import find_study
        from hpo.text import parameters
        from storage import owner_of

        given = parse_params(params)
        found = find_study(study, storage, to_write=True)
        queued = add(found.study, given)
        print(f"trial {queued.number} waits · {parameters(queued.params)}")
        if queued.unchecked:
            print(f"not checked: {queued.unchecked}")
        owner = owner_of(found.settings.storage, found.study.study_name)
        if owner is None:
            print("no coordinator runs the study: its next run takes the trial up first")
        else:
            print(f"its coordinator takes it up next: {owner}")


def log(
    study: Name = None,
    storage: Storage = None,
    trial: Annotated[int | None, typer.Option(help="Only what happened to this trial.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Only moments of this kind. Repeatable."),
    ] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one moment a line.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on printing what happens, until Ctrl-C.")
    ] = False,
) -> None:
    """Show a study's log of decisions, in local time."""
    with _questions():
        from hpo.log_view import Wanted, print_log, readable_log
        from hpo.queries import find_study

        wanted = Wanted(trial, kind or ())
        with readable_log(find_study(study, storage)) as path:
            print_log(path, wanted, last, as_json, follow)


def pull(
    study: Name = None,
    storage: Storage = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory that holds the study's; the model goes into DIR/STUDY/best. "
            "[default: where the study was run, else runs]"
        ),
    ] = None,
) -> None:
    """Bring the best model to this machine, from Modal if it was trained there."""
    with _questions():
        from hpo.pull import pull_best
        from hpo.queries import find_study

        pull_best(find_study(study, storage), out, say)


def dashboard(
    study: Annotated[
        str | None, typer.Option(help="Study whose page to name. [default: the only one]")
    ] = None,
    storage: Storage = None,
    host: Annotated[str, typer.Option(help="Name or address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes any free one.")] = 8080,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Let the pages change the database.")
    ] = False,
) -> None:
    """Serve optuna-dashboard on a study's database, read-only, to this machine.

    With a password in the environment variable HPO_DASHBOARD_PASSWORD it is asked for, and other
    addresses than those of this machine can be served.
    """
    with errors():
        import optuna

        from hpo.dashboard import PASSWORD_VARIABLE, serve
        from hpo.settings import load

        flags = {"study": study, "storage": storage}
        settings = load({name: value for name, value in flags.items() if value is not None})
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        serve(
            settings.storage,
            study=settings.study,
            host=host,
            port=port,
            allow_writes=allow_writes,
            password=os.environ.get(PASSWORD_VARIABLE) or None,
            say=say,
        )
