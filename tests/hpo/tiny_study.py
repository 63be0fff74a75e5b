"""A finished study of the built-in objective on a tiny encoder, for what is done with its model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import hpo
from hpo.queries import Found, find_study
from hpo.winners import Chosen, choice_of, winning_trial
from objectives import FineTune


@dataclass(frozen=True)
class TinyStudy:
    """A study of two trials, both finalists; the better one of them kept its weights."""

    url: str
    runs: Path

    def found(self) -> Found:
        """Return the study as a question finds it."""
        return find_study("tiny", self.url)

    @property
    def validation(self) -> Path:
        """The file of validation pairs."""
        return self.runs / "tiny" / "data" / "validation.jsonl"

    @property
    def test(self) -> Path:
        """The file of test pairs."""
        return self.runs / "tiny" / "test.jsonl"

    def winner(self) -> Chosen:
        """Return the model that won."""
        study = self.found().study
        trial = winning_trial(study)
        assert trial is not None
        return choice_of(study, trial)


@pytest.fixture(scope="session")
def tiny_study(
    tiny_model: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> TinyStudy:
    """Run the study, in this process."""
    card = "---\nlicense: other\nlicense_name: tiny-1.0\n---\n# Tiny\n"
    (tiny_model / "README.md").write_text(card)
    home = tmp_path_factory.mktemp("home")
    study = TinyStudy(f"sqlite:///{home}/hpo.db", home / "runs")
    space = {
        "tuning": "head",
        "head_num_samples": 128,
        "dimension": [8, 32],
        "head_epochs": 5,
        "loss": "CoSENT",
    }
    hpo.optimize(
        FineTune(data=str(pairs_file), models=[str(tiny_model)], space=space),
        trials=2,
        study="tiny",
        storage=study.url,
        executor="inline",
        out=study.runs,
        keep=1,
        finalists=2,
        seeds=2,
        pruner="none",
        require=["recall>=0"],
        progress=False,
    )
    return study
