"""The command line: a thin layer over ``hpo.study`` and ``storage``.

Only Typer is imported here. Everything heavy is imported inside the command that needs it, so that
``--help`` and a wrong flag are answered at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna import Study

EXIT_STOPPED = 1
"""The study stopped before its target: too many failures."""

EXIT_BAD_INPUT = 2
"""Something that was given cannot be used."""

EXIT_INTERRUPTED = 130
"""Ctrl-C or SIGTERM; the same command goes on."""

app = typer.Typer(
    name="hpo",
    help="From labelled text pairs to the best fine-tuned embedding model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Storage = Annotated[
    str | None,
    typer.Option(help="Database URL: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."),
]


@app.command()
def run(
    trials: Annotated[
        int | None, typer.Option(help="Total of finished trials, over all runs. [default: 64]")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled pairs: CSV, TSV, JSONL or Parquet file, or a Hugging Face dataset id. "
            "[default: demo]"
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study. [default: the data's name]")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME. "
            "[default: sqlite:///hpo.db]"
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(help="Where trials run: local (worker processes) or inline. [default: local]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes. [default: one a GPU, or one a core]")
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Base models, with commas: ids or paths; NAME@layers=3 keeps 3 layers."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="package.module:function to run instead of the built-in fine-tuning."),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIRECTION",
            help="minimize or maximize, once for each value the objective returns.",
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANGE",
            help="Change the space: NAME=LOW..HIGH, NAME=A,B,C or NAME=VALUE. Repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file. [default: ./sweep.toml if there is one]")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help="Start no trial after this long: 90s, 30m, 2h.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything. [default: 0]")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe, random, qmc or nsgaii. [default: tpe]")
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(help="median, percentile, asha, hyperband or none. [default: median]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for logs and models. [default: runs]")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="So many of the best trials keep their weights. [default: 3]")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="Further attempts after a lost worker. [default: 3]")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="So many failed trials stop the study. [default: 20]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
) -> None:
    """Run a study, or go on with one: the same command resumes.

    Every option can also be set in sweep.toml (max_failures = 5) or in the environment
    (HPO_MAX_FAILURES=5); flags win over the environment, and that over the file.
    """
    flags = {
        name: value
        for name, value in locals().items()
        if value is not None and name not in ("config", "dry_run", "space")
    }
    with _errors():
        from hpo.settings import load

        if space:
            flags["space"] = _overrides(space)
        settings = load(flags, config)
        from hpo.study import objective_of, run_study

        chosen, spec = objective_of(settings)
        if dry_run:
            from hpo.dry_run import describe_plan

            for line in describe_plan(chosen, settings):
                print(line)
            return
        from hpo.progress import make_progress

        outcome = run_study(chosen, spec, settings, [make_progress()], _say)
    if outcome.reason == "interrupted":
        raise SystemExit(EXIT_INTERRUPTED)


@app.command()
def best(
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the best trial of a study, and where its model is."""
    with _errors():
        from hpo.errors import InputError
        from hpo.summary import baselines_of, best_trial, describe, trial_row
        from hpo.text import score

        found = _load(study, storage)
        trials = found.best_trials if len(found.directions) > 1 else [best_trial(found)]
        rows = [trial for trial in trials if trial is not None]
        if not rows:
            raise InputError(f"study {found.study_name!r} has no completed trial yet.")
        if as_json:
            records = [trial_row(trial) for trial in rows]
            several = len(found.directions) > 1
            print(json.dumps(records if several else records[0], indent=2))
            return
        for trial in rows:
            print(describe(trial))
            row = trial_row(trial)
            for name, value in row["metrics"].items():
                print(f"  {name}: {score(value) if isinstance(value, float) else value}")
            if row["model"]:
                print(f"  model: {row['model']}")
        for record in baselines_of(found):
            names = ", ".join(map(str, record["params"].values()))
            print(f"untuned {names}: {score(record['value'])}")


@app.command()
def trials(
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one trial a line.")] = False,
) -> None:
    """List the trials of a study."""
    with _errors():
        from hpo.summary import describe, trial_row

        found = _load(study, storage)
        for trial in found.get_trials(deepcopy=False):
            if as_json:
                print(json.dumps(trial_row(trial)))
            else:
                cause = trial_row(trial)["cause"]
                state = trial.state.name.lower()
                why = f" ({cause})" if cause not in (None, "ok", "pruned") else ""
                print(f"{state}{why} · {describe(trial)}")


def _load(study: str | None, storage: str | None) -> Study:
    """Load the study named, or the only one there is."""
    import optuna

    from hpo.errors import InputError
    from hpo.settings import load
    from storage import mask_url, open_storage

    flags = {"study": study, "storage": storage}
    settings = load({name: value for name, value in flags.items() if value is not None})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _refuse_missing_file(settings.storage)
    opened = open_storage(settings.storage)
    names = sorted(each.study_name for each in opened.get_all_studies())
    where = mask_url(settings.storage)
    listed = ", ".join(names) or "none"
    if settings.study is None and len(names) != 1:
        raise InputError(f"{where} holds {len(names)} studies: name one with --study ({listed}).")
    name = settings.study or names[0]
    if name not in names:
        raise InputError(f"{where} holds no study {name!r}; it holds {listed}.")
    return optuna.load_study(study_name=name, storage=opened)


def _refuse_missing_file(url: str) -> None:
    """Refuse to read a SQLite file that is not there: opening it would make an empty one."""
    from hpo.errors import InputError

    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        raise InputError(
            f"{url}: there is no such file; run a study first (python -m hpo.run), or name "
            "another database with --storage."
        )


def _overrides(texts: list[str]) -> dict[str, Any]:
    """Return the changes that --space asks for, as sweep.toml's [space] would have them."""
    from hpo.errors import InputError
    from hpo.objective import load_objective
    from hpo.protocol import ObjectiveSpec

    parse: Callable[[str], Any] = load_objective(
        ObjectiveSpec(reference="objectives.space:parse_override")
    )
    try:
        return dict(parse(text) for text in texts)
    except ValueError as error:
        raise InputError(f"--space: {error}") from error


def _say(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn errors that people can mend into one message and an exit code."""
    from hpo.errors import InputError, StudyStoppedError
    from storage import StorageError

    try:
        yield
    except (InputError, StorageError) as error:
        print(f"hpo: {error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except StudyStoppedError as error:
        print(f"hpo: stopped: {error}", file=sys.stderr)
        raise SystemExit(EXIT_STOPPED) from None
    except KeyboardInterrupt:  # before a study runs; while it does, Ctrl-C has a meaning of its own
        print("hpo: interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


def main() -> None:
    """Run the ``hpo`` command."""
    app()


def run_alone() -> None:
    """Run ``python -m hpo.run``: the run command without its name."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name="python -m hpo.run")(run)
    alone(prog_name="python -m hpo.run")
