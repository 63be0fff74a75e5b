"""What a study is to do, and the tasks that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json

from hpo.attempts import Attempt, LiveTrial, travelling, trial_seed
from hpo.evaluation import ASSET, FINAL, Evaluation
from hpo.finalists import FinalistRun
from hpo.journal import UNWRITTEN
from hpo.protocol import NO_TRIAL, Direction, ObjectiveSpec, Param, Task
from hpo.requirements import Requirement


@dataclass(frozen=True)
class Plan:
    """What a study is to do.

    Attributes:
        study: Its name.
        trials: Finished trials to reach, over all runs.
        spec: How workers find the objective; ``None`` if only this process can.
        directory: Where logs, checkpoints and models go.
        seed: The study's seed.
        timeout: Seconds after which no new trial starts; ``None`` for no limit.
        target: A value that ends the search when a feasible trial reaches it.
        patience: So many finished trials without a better one end the search.
        trial_timeout: Seconds that one attempt may run; ``None`` for no limit.
        requirements: What a trial's metrics must meet to be feasible.
        retries: Further attempts for a trial that the infrastructure lost.
        max_failures: So many failed trials stop the study.
        keep: How many of the best trials keep their directory.
        data: What the objective's ``prepare`` wrote for trials.
        max_cost: Dollars that the study may cost, over all its runs; ``None`` for no limit.
        finalists: So many of the best configurations run again before one wins.
        seeds: With so many new seeds each.
    """

    study: str
    trials: int
    spec: ObjectiveSpec
    directory: Path
    seed: int
    timeout: float | None = None
    target: float | None = None
    patience: int | None = None
    trial_timeout: float | None = None
    requirements: tuple[Requirement, ...] = ()
    retries: int = 3
    max_failures: int = 20
    keep: int = 3
    data: Path | None = None
    max_cost: float | None = None
    finalists: int = 0
    seeds: int = 3

    @property
    def journal(self) -> Path:
        """The file of events that wait for the database."""
        return self.directory / UNWRITTEN

    @property
    def trials_directory(self) -> Path:
        """Where every trial has a directory for its checkpoints and its model."""
        return self.directory / "trials"

    @property
    def test(self) -> Path:
        """Where an objective's ``prepare`` puts the test split, if it makes one."""
        return self.directory / "test.jsonl"

    def trial_task(
        self, live: LiveTrial, attempt: Attempt, directions: tuple[Direction, ...]
    ) -> Task:
        """Return the task of a trial's newest attempt."""
        start = live.trial.datetime_start
        return self._task(
            attempt,
            place=f"{self.trials_directory.name}/{live.number}",
            log=f"trial-{live.number:04d}-attempt-{len(live.attempts)}",
            number=live.number,
            params=live.params(),
            user_attrs=live.trial.user_attrs,
            constraints=live.trial.constraints,
            directions=directions,
            created=start.isoformat() if start is not None else attempt.start,
            seed=trial_seed(self.seed, live.number),
            resume=len(live.attempts) > 1,
        )

    def baseline_task(self, params: dict[str, Any], attempt: Attempt) -> Task:
        """Return the task that scores a baseline: parameters are given, not sampled."""
        given = {
            name: Param(
                distribution=distribution_to_json(CategoricalDistribution([value])), value=0
            )
            for name, value in params.items()
        }
        return self._task(
            attempt,
            place="baselines",
            log=f"baseline-{attempt.id}",
            number=NO_TRIAL,
            method="baseline",
            params=given,
        )

    def finalist_task(
        self, run: FinalistRun, attempt: Attempt, directions: tuple[Direction, ...]
    ) -> Task:
        """Return the task of a finalist's run: its parameters with a new seed."""
        number = run.trial.number
        return self._task(
            attempt,
            place=run.place,
            log=f"finalist-{number:04d}-{run.run}-attempt-{len(run.attempts)}",
            number=number,
            params=travelling(run.trial.params, run.trial.distributions),
            directions=directions,
            seed=trial_seed(self.seed, number, run.run),
            resume=len(run.attempts) > 1,
        )

    def evaluation_task(self, evaluation: Evaluation, attempt: Attempt) -> Task:
        """Return the task that evaluates a winner; it alone may carry the test split."""
        return self._task(
            attempt,
            place="evaluation",
            log=f"evaluation-{attempt.id}",
            number=NO_TRIAL,
            method="evaluate",
            user_attrs={FINAL: evaluation.question},
            assets={ASSET: evaluation.model},
            test=str(self.test) if evaluation.opens else None,
        )

    def _task(self, attempt: Attempt, place: str, log: str, **fields: Any) -> Task:
        """Return a task with what all have in common, unless ``fields`` say otherwise."""
        return Task(
            attempt=attempt.id,
            study=self.study,
            objective=self.spec,
            directory=str(self.directory / place),
            place=place,
            data=str(self.data) if self.data is not None else None,
            log=str(self.directory / "logs" / f"{log}.log"),
            **{"created": attempt.start, "seed": self.seed, **fields},
        )
