"""Models that are no trials of a study, and what scores them: an API, or a worker process here.

What scores a model behind an API belongs to the objectives' side, as data and metrics do; it is
loaded by name, and known here by the shape of :class:`Contender` only.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpo.attempts import Attempt
from hpo.baselines import HERE
from hpo.errors import InputError
from hpo.executors.local import LocalExecutor
from hpo.objective import load_objective
from hpo.plan import Plan
from hpo.protocol import NO_TRIAL, Done, Failed, ObjectiveSpec, Task
from hpo.queries import Found
from hpo.record import RECORD, StudyRecord

API_MODELS = "objectives.apis:api_model"
"""What knows the models behind an API."""


@dataclass(frozen=True)
class Estimate:
    """What a score would take, as ``objectives.apis.model.Estimate`` says it; else nothing.

    Attributes:
        texts: Distinct texts of the validation pairs.
        cached: How many of them have a vector already.
        tokens: About how many tokens the others have, rather too many.
        dollars: What they would cost; ``None`` if the price is unknown.
        source: Where the price comes from, for people.
    """

    texts: int = 0
    cached: int = 0
    tokens: int = 0
    dollars: float | None = 0.0
    source: str = ""


@dataclass(frozen=True)
class Score:
    """A score and what it cost, as ``objectives.apis.model.Score`` says it; else nothing.

    Attributes:
        value: What a trial's value is compared with.
        metrics: All measures, as those of a trial.
        tokens: Tokens billed for the vectors that it needs, whenever that was.
        dollars: What they cost; ``None`` if the price is unknown.
        tokens_now: Tokens billed just now.
        dollars_now: What these cost; ``None`` if the price is unknown.
    """

    value: float
    metrics: dict[str, Any]
    tokens: int = 0
    dollars: float | None = 0.0
    tokens_now: int = 0
    dollars_now: float | None = 0.0


class Contender(Protocol):
    """A model that can be scored on a study's validation pairs.

    Attributes:
        params: What makes the model, as the parameters of a baseline.
        source: Who computes the vectors.
    """

    params: dict[str, Any]
    source: str

    def estimate(self) -> Estimate:
        """Return what a score would take."""

    def __call__(self, say: Callable[[str], None]) -> Score:
        """Score the model."""


def name_of(contender: Contender) -> str:
    """Return a contender's name for people."""
    return " ".join(str(value) for value in contender.params.values())


def contenders(
    found: Found, models: Sequence[str], dimensions: int | None, prices: Mapping[str, float]
) -> list[Contender]:
    """Return what scores ``models``; nothing is scored or asked for yet.

    Args:
        found: The study.
        models: Models as people name them.
        dimensions: How long vectors of models behind an API are to be.
        prices: Dollars for a million tokens by model, over known ones.

    Raises:
        InputError: The study's objective scores no models, its validation pairs are not on this
            machine, or there is no such model.
    """
    record = _record_of(found)
    pairs = Path(record.directory) / "data" / "validation.jsonl"
    if not pairs.is_file():
        raise InputError(
            f"study {found.study.study_name!r} left its validation pairs in {pairs}, which is not "
            "on this machine (any more): score models where it was run."
        )
    api_model: Any = load_objective(ObjectiveSpec(reference=API_MODELS))
    made: list[Contender] = []
    for model in dict.fromkeys(models):
        with _refusals():
            api = api_model(model, str(pairs), dimensions, prices)
        made.append(ModelHere(found, record, model) if api is None else ModelBehindApi(api))
    return made


def _record_of(found: Found) -> StudyRecord:
    name = found.study.study_name
    if RECORD not in found.study.user_attrs:
        raise InputError(f"study {name!r} was not made by hpo: it has no validation pairs.")
    record = StudyRecord.of(found.study)
    if record.objective is None or "models" not in (record.options or {}):
        raise InputError(
            f"study {name!r} has the objective {record.objective or 'of a script'}, which says of "
            "no other model how good it is; models are scored for studies of the built-in "
            "fine-tuning."
        )
    return record


class ModelBehindApi:
    """A model behind an API.

    Args:
        model: What knows it, on the objectives' side.
    """

    def __init__(self, model: Any) -> None:
        self.params: dict[str, Any] = model.params
        self.source: str = model.source
        self._model = model

    def estimate(self) -> Estimate:
        """Return what a score would take.

        Raises:
            InputError: It would take a request, and none can be made.
        """
        with _refusals():
            return Estimate(**vars(self._model.estimate()))

    def __call__(self, say: Callable[[str], None]) -> Score:
        """Score the model.

        Raises:
            InputError: The API refused, or failed too often.
        """
        with _refusals():
            return Score(**vars(self._model(say)))


def behind_api(params: Mapping[str, Any], pairs: Path, prices: Mapping[str, float]) -> Contender:
    """Return the model behind an API that a study's baseline is, to be scored on other pairs.

    Args:
        params: What makes the model, as the study records it.
        pairs: The file of pairs.
        prices: Dollars for a million tokens by model, over known ones.

    Raises:
        InputError: There is no such model.
    """
    api_model: Any = load_objective(ObjectiveSpec(reference=API_MODELS))
    with _refusals():
        return ModelBehindApi(
            api_model(params["base_model"], str(pairs), params.get("dimension"), prices)
        )


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the objectives' side refuses into our error."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


class ModelHere:
    """A sentence-transformers model, scored by a worker as a study's own untuned models are.

    Args:
        found: The study.
        record: Its record.
        model: The model's name.
    """

    source = HERE

    def __init__(self, found: Found, record: StudyRecord, model: str) -> None:
        self.params: dict[str, Any] = {"base_model": model}
        self._found = found
        self._record = record
        self._model = model

    def estimate(self) -> Estimate:
        """Return that it costs nothing."""
        return Estimate()

    def __call__(self, say: Callable[[str], None]) -> Score:
        """Score the model.

        Raises:
            InputError: It cannot be loaded or scored.
        """
        assert self._record.objective is not None
        options = {**(self._record.options or {}), "models": [self._model]}
        spec = ObjectiveSpec(reference=self._record.objective, options=options)
        objective = load_objective(spec)
        directory = Path(self._record.directory)
        plan = Plan(
            study=self._found.study.study_name,
            trials=0,
            spec=spec,
            directory=directory,
            seed=self._record.seed,
            data=directory / "data",
        )
        task = plan.baseline_task(self.params, Attempt.new(NO_TRIAL, 1))
        say(f"{self._model}: being scored by a worker process, which starts in some seconds")
        ended = run_here(task, getattr(objective, "preload", ()))
        if isinstance(ended, Failed):
            raise InputError(
                f"{self._model} could not be scored ({ended.cause}): {ended.message}; what its "
                f"worker printed is in {task.log}."
            )
        return Score(ended.values[0], ended.user_attrs.get("metrics", {}))


def run_here(task: Task, preload: Sequence[str]) -> Done | Failed:
    """Run one attempt in a worker process of its own, and return its end."""
    # A directory of its own: the study's may be in use by the workers of its coordinator.
    with (
        tempfile.TemporaryDirectory(prefix="hpo-") as scratch,
        contextlib.closing(LocalExecutor(Path(scratch), 1, preload)) as executor,
    ):
        executor.submit(task)
        while True:
            for event in executor.events(1.0):
                if isinstance(event, Done | Failed):
                    return event
