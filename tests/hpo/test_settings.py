"""Settings come from four places, and a wrong one is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpo.errors import InputError
from hpo.settings import Settings, load, parse_seconds


def test_later_places_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}, environment={}) == Settings()
    Path("sweep.toml").write_text('trials = 1\nseed = 1\nkeep = 1\nstudy = "file"\n')
    found = load(
        {"seed": 3, "study": "flag"}, environment={"HPO_TRIALS": "2", "HPO_STUDY": "environment"}
    )
    assert (found.trials, found.seed, found.keep, found.study) == (2, 3, 1, "flag")


def test_another_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text("trials = 1\n")
    Path("other.toml").write_text("seed = 5\n")
    found = load({}, Path("other.toml"), environment={})
    assert (found.trials, found.seed) == (64, 5)


def test_the_space_of_the_flags_is_laid_over_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text('[space]\nloss = ["CoSENT"]\ndimension = 64\n')
    found = load({"space": {"dimension": 128}}, environment={})
    assert found.space == {"loss": ["CoSENT"], "dimension": 128}


def test_lists_can_be_written_with_commas() -> None:
    found = load({"models": "a, b@layers=3"}, environment={"HPO_DIRECTION": "minimize,maximize"})
    assert found.models == ("a", "b@layers=3")
    assert found.direction == ("minimize", "maximize")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"trials": 0}, r"--trials: .*greater than 0.*got 0"),
        ({"trials": -3}, r"--trials: .*greater than 0.*got -3"),
        ({"workers": 0}, r"--workers: .*greater than 0"),
        ({"executor": "cloud"}, r"--executor: .*'local' or 'inline'.*'cloud'"),
        ({"timeout": "soon"}, r"--timeout: write seconds, or a duration .*'soon'"),
        ({"timeout": "-5"}, r"--timeout: write seconds"),
        ({"timeout": 0}, r"--timeout: .*greater than 0"),
        ({"study": "../up"}, r"--study: .*directory's name.*'../up'"),
        ({"study": ""}, r"--study: "),
        ({"direction": ["up"]}, r"--direction: .*'minimize' or 'maximize'"),
        ({"seed": -1}, r"--seed: .*got -1"),
        ({"max_failures": 0}, r"--max-failures: "),
    ],
)
def test_a_wrong_flag_is_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(flags, environment={})


def test_a_wrong_environment_variable_is_named() -> None:
    with pytest.raises(InputError, match=r"HPO_TRIALS: .*'many'"):
        load({}, environment={"HPO_TRIALS": "many"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trails = 5", r"sweep.toml: trails: there is no setting 'trails'; there are trials, "),
        ("trials = 'x'", r"sweep.toml: trials: .*got 'x'"),
        ("trials = 5 6", r"sweep.toml is not valid TOML: .*line 1"),
        ("[space]\n[space]", r"sweep.toml is not valid TOML"),
        ("space = 3", r"sweep.toml: space: .*got 3"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load({}, environment={})


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.toml: there is no such file"):
        load({}, tmp_path / "no.toml", environment={})
    with pytest.raises(InputError, match=r"Is a directory"):
        load({}, tmp_path, environment={})
    (tmp_path / "latin.toml").write_bytes(b"study = '\xe9'")
    with pytest.raises(InputError, match=r"not valid TOML"):
        load({}, tmp_path / "latin.toml", environment={})
