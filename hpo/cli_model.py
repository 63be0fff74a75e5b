"""The commands that hand over a model; ``hpo.cli`` puts them on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli_common import database_errors, errors, say
from hpo.cli_study import Name, Storage

Out = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Where the model goes: a new directory, or one that hpo exported."
    ),
]


def export(
    out: Out,
    study: Name = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Number of the trial. [default: the best]")
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Upload it to this repository of the Hugging Face hub, too; a new one is private. "
            "Needs a token in HF_TOKEN.",
        ),
    ] = None,
    storage: Storage = None,
) -> None:
    """Write a trial's model as a plain SentenceTransformer directory with a model card."""
    with errors(), database_errors():
        from hpo.exporting import export as write
        from hpo.hub import check_hub, push
        from hpo.queries import find_study

        token = check_hub(push_to_hub) if push_to_hub is not None else None
        place = write(find_study(study, storage), trial, out, say, push_to_hub)
        if push_to_hub is not None and token is not None:
            push(place, push_to_hub, token, say)


def train(
    params: Annotated[
        str,
        typer.Option(
            metavar="best|NUMBER|FILE",
            help="Parameters: those of the best trial, of a trial by its number, or of a JSON or "
            "TOML file that has all of them.",
        ),
    ],
    out: Out,
    study: Name = None,
    storage: Storage = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled pairs, as for a run. [default: what the study has prepared]"),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A base model instead of that of the parameters."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**31 - 1, help="Seed of training. [default: the trial's, or 0]"),
    ] = None,
) -> None:
    """Train one model with given parameters, with no search.

    With the data and the parameters of a trial, and no seed, it gives that trial's value again on
    the machine that the trial ran on.
    """
    with errors(), database_errors():
        import optuna

        from hpo.queries import find_study
        from hpo.settings import load
        from hpo.training_params import Wanted
        from hpo.training_run import train as run

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        wanted = Wanted(params, data, models, seed)
        needed = study is not None or wanted.needs_study
        found = find_study(study, storage) if needed else None
        settings = found.settings if found is not None else load({})
        run(found, wanted, out, settings.workers, say)
