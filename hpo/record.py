"""What a study remembers of the run that made it, and whether a later run fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna import Study
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from pydantic import BaseModel

from hpo.errors import InputError
from hpo.grid import GRID
from hpo.journal import UNWRITTEN
from hpo.protocol import ObjectiveSpec

RECORD = "hpo"
"""The study's user attribute that holds its record."""


class StudyRecord(BaseModel):
    """What a study was made with.

    Attributes:
        objective: The objective's reference; ``None`` if it has no importable name.
        options: The objective's options.
        seed: The seed that splits and trials of this study use.
        directory: Where logs, checkpoints and models are.
        require: What a trial's metrics must meet to be feasible.
        sampler: The sampler of the newest run; ``grid`` stands for the design, and stays.
        pruner: The pruner of the newest run.
        source: A hash of the file that a plain function came from in the first run; ``None`` for
            an objective with options, which says by those what it does.
    """

    objective: str | None
    options: dict[str, Any] | None
    seed: int
    directory: str
    require: tuple[str, ...] = ()
    sampler: str | None = None
    pruner: str | None = None
    source: str | None = None

    @classmethod
    def find(cls, storage: BaseStorage, name: str) -> StudyRecord | None:
        """Return the record of the study called ``name``; ``None`` if there is none yet."""
        if name not in {each.study_name for each in storage.get_all_studies()}:
            return None
        attrs = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
        return cls.model_validate(attrs[RECORD]) if RECORD in attrs else None

    @classmethod
    def of(cls, study: Study) -> StudyRecord:
        """Return the record of a study that has one."""
        return cls.model_validate(study.user_attrs[RECORD])

    def spec(self) -> ObjectiveSpec | None:
        """Return how the objective is found, in the current directory first; ``None`` if by nobody.

        An objective without an importable name is known to its own script only.
        """
        if self.objective is None:
            return None
        path = (str(Path.cwd()),)
        return ObjectiveSpec(reference=self.objective, options=self.options, path=path)

    def settle(self, study: Study) -> list[str]:
        """Record this run in a new study, or see that it fits the one that is there.

        Returns:
            What people should know about the differences that do no harm.

        Raises:
            InputError: The run would mix two objectives or two search spaces in one study.
        """
        if RECORD not in study.user_attrs:
            study.set_user_attr(RECORD, self.model_dump(mode="json"))
            return []
        old = StudyRecord.of(study)
        name = study.study_name
        if old.objective != self.objective:
            raise InputError(
                f"study {name!r} was made with the objective {old.objective}, not "
                f"{self.objective}; its trials would not compare: use --study NEW."
            )
        changes = differences(old.options or {}, self.options or {})
        if changes:
            raise InputError(
                f"study {name!r} was made with other settings: {'; '.join(changes)}. Its trials "
                "would not compare: go back to those settings, or start another study with "
                f"--study NEW; with --from {name} it begins with the trials that fit."
            )
        self._settle_design(old, name)
        self._settle_requirements(old, study)
        notes = []
        if old.seed != self.seed:
            notes.append(
                f"the study keeps its seed {old.seed} (--seed {self.seed} is for new ones)"
            )
        if old.directory != self.directory:
            _refuse_to_leave(Path(old.directory, UNWRITTEN), name)
            notes.append(f"the study moves from {old.directory} to {self.directory}")
        for what in ("sampler", "pruner"):
            before, now = getattr(old, what), getattr(self, what)
            if before not in (None, now):
                notes.append(f"the {what} was {before}, and is {now} from here on")
        if self.source != old.source:
            notes.append("the objective's file has changed since the study was made")
        kept = self.model_copy(update={"seed": old.seed, "source": old.source})
        if kept != old:
            study.set_user_attr(RECORD, kept.model_dump(mode="json"))
        return notes

    def _settle_design(self, old: StudyRecord, name: str) -> None:
        """Refuse to go on with a grid as a search, or with a search as a grid."""
        before, now = ("grid" if each.sampler == GRID else "search" for each in (old, self))
        if before != now:
            raise InputError(
                f"study {name!r} was made with --design {before}, not {now}; a study's design "
                f"cannot change: go back to it, or use --study NEW; with --from {name} that begins "
                "with the trials that fit."
            )

    def _settle_requirements(self, old: StudyRecord, study: Study) -> None:
        """Refuse other requirements than those that finished trials were judged by."""
        complete = (TrialState.COMPLETE,)
        if old.require != self.require and study.get_trials(deepcopy=False, states=complete):
            before, now = (", ".join(each) or "nothing" for each in (old.require, self.require))
            raise InputError(
                f"study {study.study_name!r} requires {before}, not {now} (--require); its "
                "finished trials were judged by that, which cannot change. Go back to it, or "
                f"judge them anew in another study: --study NEW --from {study.study_name}."
            )


def _refuse_to_leave(unwritten: Path, name: str) -> None:
    """Refuse to move a study away from results that its database lacks."""
    if unwritten.exists():
        raise InputError(
            f"{unwritten} holds results of study {name!r} that its database lacks: run the study "
            f"once with --out {unwritten.parent.parent}, or delete the file to do without them."
        )


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Say where two JSON objects differ, one entry a leaf."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {before!r}, now {after!r}")
    return found
