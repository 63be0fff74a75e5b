"""The commands that ask about studies; ``hpo.cli`` puts them on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli_common import errors

if TYPE_CHECKING:
    from optuna import Study

Storage = Annotated[
    str | None,
    typer.Option(help="Database URL: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."),
]


def best(
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the best trial of a study, and where its model is."""
    with errors():
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


def trials(
    study: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    storage: Storage = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one trial a line.")] = False,
) -> None:
    """List the trials of a study."""
    with errors():
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
