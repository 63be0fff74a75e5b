"""The command line: a thin layer over ``hpo.study`` and ``storage``.

Only Typer is imported here. Everything heavy is imported inside the command that needs it, so that
``--help`` and a wrong flag are answered at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hpo import baseline_command, cli_model, cli_report, cli_study, evaluate_command
from hpo.cli_common import EXIT_INTERRUPTED, errors, say

app = typer.Typer(
    name="hpo",
    help="From labelled text pairs to the best fine-tuned embedding model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    trials: Annotated[
        int | None,
        typer.Option(
            help="Total of finished trials, over all runs. [default: 64, or all of a grid]"
        ),
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
            help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME; modal://VOLUME/FILE.db "
            "with --coordinator modal. [default: sqlite:///hpo.db]"
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            help="Where trials run: modal (GPU functions), local (worker processes) or inline. "
            "[default: auto: modal with a Modal token, else local]"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Trials at once. [default: one a GPU, or one a core; 10 on Modal]"),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="GPU on Modal; with commas, the first that is free. [default: L4]"),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(metavar="DOLLARS", help="What trials on Modal may cost, over all runs."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to the worst case on Modal without being asked.")
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(help="Where the coordinator runs: here or modal. [default: here]"),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="A local module, package or file for Modal, too. Repeatable."
        ),
    ] = None,
    pip: Annotated[
        list[str] | None,
        typer.Option(metavar="PACKAGE", help="A package for Modal, too. Repeatable."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A Modal Secret for trials. Repeatable."),
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="Regions on Modal, with commas. [default: any]")
    ] = None,
    cpu: Annotated[
        float | None, typer.Option(help="CPU cores of a trial on Modal. [default: 2]")
    ] = None,
    memory: Annotated[
        int | None, typer.Option(help="MiB of memory of a trial on Modal. [default: 8192]")
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
    target: Annotated[
        float | None, typer.Option(help="Stop when a feasible trial reaches this value.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many trials without a better one.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help="What a trial's metrics must meet to win, such as 'recall>=0.5'. Repeatable.",
        ),
    ] = None,
    design: Annotated[
        str | None,
        typer.Option(help="search (a sampler chooses) or grid (every combination of levels)."),
    ] = None,
    finalists: Annotated[
        int | None,
        typer.Option(help="So many of the best run again with new seeds. [default: 3]"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="New seeds for each finalist. [default: 3]")
    ] = None,
    from_study: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STUDY",
            help="Begin a new study with the compatible trials of this one.",
        ),
    ] = None,
    trial_timeout: Annotated[
        str | None, typer.Option(help="End an attempt that runs longer: 90s, 30m, 2h.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything. [default: 0]")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="tpe, random, qmc or nsgaii; not for a grid. [default: tpe]")
    ] = None,
    pruner: Annotated[
        str | None,
        typer.Option(
            help="median, percentile, asha, hyperband or none. [default: median; none in a grid]"
        ),
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
    db_grace: Annotated[
        str | None,
        typer.Option(help="Ride out a database that is away for so long. [default: 10m]"),
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
        if value is not None and name not in ("config", "dry_run", "space", "yes")
    }
    with errors():
        from hpo.settings import load

        if space:
            flags["space"] = _overrides(space)
        settings = load(flags, config)
        from hpo.coordinator import INTERRUPTED
        from hpo.opening import choose_executor, objective_of
        from hpo.study import run_study

        settings, why = choose_executor(settings)
        chosen, spec = objective_of(settings)
        if dry_run:
            from hpo.dry_run import describe_plan

            for line in describe_plan(chosen, settings):
                print(line)
            return
        if settings.executor == "modal":
            from hpo.on_modal.consent import agree

            settings = agree(settings, chosen, yes)
        from hpo.progress import make_progress

        # Before and after the loop, which has handlers of its own.
        signal.signal(signal.SIGTERM, _end_at_once)
        try:
            if settings.coordinator == "modal":
                from hpo.on_modal.client import run_there

                code = run_there(chosen, spec, settings, say)
                raise SystemExit(code)
            outcome = run_study(chosen, spec, settings, [make_progress()], say, why=why)
        finally:
            # It is over: a late signal must not change the exit code while Python shuts down.
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_IGN)
    if outcome.reason == INTERRUPTED:
        raise SystemExit(EXIT_INTERRUPTED)


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


def _end_at_once(number: int, frame: object) -> None:
    """End on SIGTERM while a study is opened or closed: it may be left at any point.

    Not by an exception, which could surface in the middle of a library's clean-up.
    """
    os.write(2, b"hpo: interrupted\n")
    os._exit(EXIT_INTERRUPTED)


app.command()(cli_study.best)
app.command()(cli_study.trials)
app.command()(cli_study.studies)
app.command()(cli_study.enqueue)
app.command()(baseline_command.baseline)
app.command()(evaluate_command.evaluate)
app.command()(cli_report.report)
app.command()(cli_study.log)
app.command()(cli_study.pull)
app.command()(cli_model.export)
app.command()(cli_model.train)
app.command()(cli_study.dashboard)


def main() -> None:
    """Run the ``hpo`` command."""
    app()


def run_alone() -> None:
    """Run ``python -m hpo.run``: the run command without its name."""
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name="python -m hpo.run")(run)
    alone(prog_name="python -m hpo.run")
