"""``hpo evaluate``: open the test split by hand, on this machine.

A run opens it once, for its winner. To open it again is possible - for a winner that came later, or
to compare with a model behind an API - and is counted: who reads a score must know how often the
split was looked at.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpo.cli_common import database_errors, errors, say
from hpo.cli_study import Name, Storage

if TYPE_CHECKING:
    from hpo.evaluation import Evaluation
    from hpo.objective import Objective
    from hpo.plan import Plan
    from hpo.queries import Found
    from hpo.winners import Chosen


def evaluate(
    study: Name = None,
    storage: Storage = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to what an API may cost without being asked.")
    ] = False,
) -> None:
    """Evaluate a study's winner on the test split, again if need be; each opening is counted.

    Baselines behind an API, which a run leaves out, are asked for the texts of the test split, too:
    keys come from the environment, and the cost is said first.
    """
    with errors(), database_errors():
        from hpo.queries import find_study

        evaluate_winner(find_study(study, storage, to_write=True), yes, say)


def evaluate_winner(found: Found, yes: bool, say: Callable[[str], None]) -> None:
    """Open the test split of a study for its winner.

    Args:
        found: The study.
        yes: Whether what an API may cost was agreed to beforehand.
        say: Takes lines for people.

    Raises:
        InputError: The study has no winner, no test split, or is run by a coordinator; the cost
            was refused; or the evaluation failed.
    """
    from hpo.errors import InputError
    from hpo.evaluation import openings_of
    from hpo.final_text import evaluation_lines, times
    from hpo.queries import best_trials
    from hpo.report import write_report
    from hpo.winners import choice_of
    from storage import OwnedError, own_study

    study, name = found.study, found.study.study_name
    plan, objective = _taken_up(found)
    if len(study.directions) > 1:
        raise InputError(f"study {name!r} has several directions, and no single winner.")
    (trial,) = best_trials(found)
    chosen = choice_of(study, trial)
    opened = len(openings_of(study))
    before = f"opened {times(opened)} before" if opened else "never opened before"
    say(f"test  the split of {name}, {before}, is opened for {chosen.name}")
    _agree_to_apis(found, plan, yes, say)
    try:
        owned = own_study(found.settings.storage, name)
    except OwnedError as error:
        raise InputError(
            f"study {name!r} is run by {error.owner}: evaluate its winner when that has ended."
        ) from None
    with owned, _model_here(chosen, name, say) as model:
        _run(_evaluation(found, plan, objective, chosen, model), plan, objective)
        for line in evaluation_lines(study):
            say(line)
        say(f"report {write_report(study, plan.directory)}")


def _taken_up(found: Found) -> tuple[Plan, Objective]:
    """Return where a study lies, and its objective.

    Raises:
        InputError: It was not made by hpo, its objective evaluates no winner, or its test split is
            not on this machine.
    """
    from hpo.errors import InputError
    from hpo.objective import load_objective
    from hpo.plan import Plan
    from hpo.record import RECORD, StudyRecord

    name = found.study.study_name
    if RECORD not in found.study.user_attrs:
        raise InputError(f"study {name!r} was not made by hpo: it has no test split.")
    record = StudyRecord.of(found.study)
    spec = record.spec()
    if spec is None:
        raise InputError(f"study {name!r} has an objective that only its own script knows.")
    objective = load_objective(spec)
    if not hasattr(objective, "evaluate"):
        raise InputError(
            f"study {name!r} has the objective {record.objective}, which has no evaluate(trial)."
        )
    directory = Path(record.directory)
    data = directory / "data"
    plan = Plan(name, 0, spec, directory, record.seed, data=data if data.is_dir() else None)
    if not plan.test.is_file():
        raise InputError(
            f"the test split of study {name!r} was left at {plan.test}, which is not on this "
            "machine (any more): evaluate its winner where the study was run."
        )
    return plan, objective


def _agree_to_apis(found: Found, plan: Plan, yes: bool, say: Callable[[str], None]) -> None:
    """Say what the study's baselines behind an API cost on the test split, and have it agreed to.

    Raises:
        InputError: Nobody agrees, or an API cannot be asked.
    """
    from hpo.baseline_command import agree_to_cost
    from hpo.baselines import is_scored_here
    from hpo.contenders import behind_api
    from hpo.summary import baselines_of

    others = [each for each in baselines_of(found.study) if not is_scored_here(each)]
    prices = found.settings.rates
    agree_to_cost([behind_api(each["params"], plan.test, prices) for each in others], yes, say)


@contextlib.contextmanager
def _model_here(chosen: Chosen, name: str, say: Callable[[str], None]) -> Iterator[str]:
    """Yield the directory of a model on this machine; what is fetched for it goes away again.

    Raises:
        InputError: The model is not to be had.
    """
    from hpo.errors import InputError
    from hpo.publishing import bring
    from hpo.retention import ELSEWHERE

    model = chosen.model
    if model is None:
        raise InputError(f"{chosen.name} of study {name!r} left no model.")
    if not model.startswith(ELSEWHERE):
        if not Path(model).is_dir():
            raise InputError(f"the model of {chosen.name} is not at {model} (any more).")
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="hpo-") as scratch:
        bring(model, Path(scratch, "model"), lambda line: say(f"      {line}"))
        yield str(Path(scratch, "model"))


def _evaluation(
    found: Found, plan: Plan, objective: Objective, chosen: Chosen, model: str
) -> Evaluation:
    from hpo.attempts import now
    from hpo.evaluation import Evaluation, candidates, question
    from hpo.finalists import rank, results_of
    from hpo.summary import baselines_of
    from hpo.winners import winner_of

    study = found.study
    trials = study.get_trials(deepcopy=False)
    winner = winner_of(study)
    names = getattr(objective, "frugality", ())
    maximize = study.direction.name == "MAXIMIZE"
    beaten = [each["trial"] for each in winner["ranking"][1:]] if winner is not None else []
    others = [trial for trial in trials if trial.number in beaten]
    ranked = rank(
        others, results_of(study.user_attrs), winner["seeds"] if winner is not None else 1, maximize
    )
    whose = {"trial": chosen.trial.number, "run": chosen.number}
    asked = question(
        whose,
        chosen.metrics,
        baselines_of(study),
        candidates(ranked, trials, names, chosen.metrics, maximize),
        names,
        plan.directory,
    )
    identity = {**whose, "opens": True, "by": "evaluate", "at": now()}
    return Evaluation(
        study, identity, f"evaluation of {chosen.name}", [], asked, model, True, "evaluate"
    )


def _run(evaluation: Evaluation, plan: Plan, objective: Objective) -> None:
    """Have a worker process evaluate, and keep what it says.

    Raises:
        InputError: It failed.
    """
    from hpo.contenders import run_here
    from hpo.errors import InputError
    from hpo.evaluation import AnswerError
    from hpo.protocol import Done
    from hpo.telling import refused

    attempt = evaluation.begin()
    task = plan.evaluation_task(evaluation, attempt)
    ended = run_here(task, getattr(objective, "preload", ()))
    if not (isinstance(ended, Done) and ended.state == "complete"):
        evaluation.end(ended)
        why = "it pruned itself" if isinstance(ended, Done) else f"{ended.cause}: {ended.message}"
        raise InputError(
            f"the {evaluation.label} failed ({why}); what its worker printed is in {task.log}."
        )
    try:
        evaluation.keep(ended.user_attrs, getattr(objective, "frugality", ()))
    except AnswerError as error:
        evaluation.end(refused(ended, str(error)))
        raise InputError(f"the {evaluation.label} failed: {error}.") from None
    evaluation.end(ended)
