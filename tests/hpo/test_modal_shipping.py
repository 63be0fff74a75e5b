"""What a run needs on Modal gets there, or is missed before anything is expensive."""

from __future__ import annotations

import importlib
import os
import pty
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modal.exception import AsyncUsageWarning, DeprecationError

import hpo
from hpo.errors import InputError, StudyStoppedError
from hpo.modal_app import make_app
from hpo.on_modal.deployment import Deployment, app_name, modal_name
from hpo.on_modal.parts import PART_BYTES
from hpo.on_modal.shipping import Source, is_junk, sources_of
from hpo.protocol import ObjectiveSpec
from hpo.settings import check
from tests.hpo.modal_support import OBJECTIVES, Modal
from tests.modal_loopback import Faults

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WITH_HELPER = """
import helper

def objective(trial):
    return helper.square(trial.suggest_float("x", -1, 1))
"""

HELPER = "def square(x):\n    return x * x\n"

SCRIPT = """
import hpo
from sweeps.one import objective

if __name__ == "__main__":
    study = hpo.optimize(
        objective, trials=2, study="ship", executor="modal", max_cost=2, workers=2,
        progress=False,
    )
    print([trial.state.name for trial in study.trials])
"""


OFFERING = """
from pathlib import Path
import hpo

class Offering:
    def __init__(self, models):
        self.models = models

    def options(self):
        return {"models": self.models}

    def prepare(self, directory, seed):
        (directory / "data").mkdir(parents=True, exist_ok=True)
        (directory / "data" / "train").write_text("3")
        (directory / "test.jsonl").write_text("nobody's business")
        return self, []

    def assets(self):
        return {"base": Path(self.models)}

    def __call__(self, trial):
        attempt = hpo.current_attempt()
        weight = float((attempt.assets["base"] / "weights").read_text())
        return trial.suggest_float("x", 0, 1) + weight + float((attempt.data / "train").read_text())
"""

ROOT = Path(__file__).parents[2]


def command(on_modal: Modal, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run ``hpo.run`` in the current directory."""
    return subprocess.run(
        [sys.executable, "-m", "hpo.run", "--trials", "2", "--workers", "2", *arguments],
        cwd=on_modal.directory,
        env={**os.environ, **changes},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def on_gpus(on_modal: Modal) -> int:
    return sum(container.gpu is not None for container in on_modal.plane.containers())


def test_a_helper_module_is_missed_before_a_gpu_starts(on_modal: Modal) -> None:
    Path("sweep.py").write_text(WITH_HELPER)
    Path("helper.py").write_text(HELPER)
    before = on_gpus(on_modal)
    base = ["--executor", "modal", "--objective", "sweep:objective", "--max-cost", "2"]
    done = command(on_modal, *base)
    assert done.returncode == 2, done.stdout
    assert "'helper'" in done.stdout
    assert "--include" in done.stdout
    assert "Traceback" not in done.stdout
    assert on_gpus(on_modal) == before
    assert not Path("hpo.db").exists()
    done = command(on_modal, *base, "--include", "helper.py", "--trials", "1")
    assert done.returncode == 0, done.stdout


def test_packages_and_scripts(on_modal: Modal) -> None:
    # A package is shipped as a whole, also for a script that imports the objective from it.
    Path("sweeps").mkdir()
    Path("sweeps/__init__.py").touch()
    Path("sweeps/one.py").write_text(WITH_HELPER.replace("import helper", "from . import helper"))
    Path("sweeps/helper.py").write_text(HELPER)
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1] == "['COMPLETE', 'COMPLETE']", done.stderr
    base = ["--executor", "modal", "--objective", "sweeps.one:objective", "--max-cost", "2"]
    done = command(on_modal, *base, "--study", "ship", "--trials", "3", "--pip", "six==1.17.0")
    assert done.returncode == 0, done.stdout
    assert "best  trial" in done.stdout
    assert any("six==1.17.0" in str(lines) for lines in on_modal.plane.images().values())


def test_the_app_is_deployed_once(on_modal: Modal) -> None:
    deploy = [sys.executable, "-m", "modal", "deploy", f"{ROOT}/hpo/modal_app.py"]
    Path("sweep.toml").write_text(
        f'objective = "{OBJECTIVES.stem}:quadratic"\nstudy = "once"\nworkers = 2\n'
    )
    done = subprocess.run(deploy, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = on_modal.run("quadratic", 1, study="once")
    assert "modal app hpo-once is deployed already" in ran.said
    with (on_modal.directory / OBJECTIVES.name).open("a") as file:
        file.write("# changed\n")
    ran = on_modal.run("quadratic", 1, study="once")
    assert any(line.startswith("modal app hpo-once deployed in") for line in ran.said)


def test_an_app_that_somebody_else_deploys_anew_runs_no_trial(on_modal: Modal) -> None:
    settings = check({"gpu": "H200", "workers": 1})
    other = Deployment.of(settings, None, "once")

    def deploy() -> None:
        make_app(other).deploy()

    with pytest.raises(StudyStoppedError, match="studies of different names"):
        on_modal.run("quadratic", 1, study="once", ready=deploy)
    assert [call.status for call in on_modal.trial_calls()][-1] == "done"
    trial = optuna.load_study(study_name="once", storage="sqlite:///hpo.db").trials[0]
    assert trial.state.name == "RUNNING"


def test_data_and_models_travel_once(
    on_modal: Modal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("offering.py").write_text(OFFERING)
    Path("models").mkdir()
    # Larger than what one call carries.
    Path("models/weights").write_bytes(b"0" * (PART_BYTES + 9) + b"4.5")
    monkeypatch.syspath_prepend(str(on_modal.directory))
    offering = importlib.import_module("offering").Offering("models")
    for out, uploads in (("first", 2), ("second", 0)):
        before = len(on_modal.plane.calls())
        study = hpo.optimize(
            offering,
            trials=2,
            study="data",
            executor="modal",
            max_cost=2,
            workers=2,
            storage=f"sqlite:///{out}.db",
            out=out,
        )
        assert all(7.5 <= trial.value <= 8.5 for trial in study.trials)
        assert capsys.readouterr().out.count("uploaded, once") == uploads
        stored = [call for call in on_modal.plane.calls()[before:] if call.function == "store"]
        assert bool(stored) == bool(uploads)
    kept = on_modal.plane.volume("hpo-cache")
    assert not list(kept.rglob("test.jsonl"))


def test_what_modal_refuses(on_modal: Modal) -> None:
    base = ["--executor", "modal", "--objective", f"{OBJECTIVES.stem}:quadratic"]
    base += ["--max-cost", "2", "--study", "refused"]
    done = command(on_modal, *base, "--secret", "nope")
    assert done.returncode == 2
    assert "'nope'" in done.stdout
    assert "modal secret create" in done.stdout
    done = command(on_modal, *base, MODAL_TOKEN_SECRET="wrong")
    assert done.returncode == 2
    assert "modal token new" in done.stdout
    on_modal.plane.faults = Faults(rpc_errors=dict.fromkeys(on_modal.plane.counts, 1.0))
    done = command(on_modal, *base)
    assert done.returncode == 2
    assert "Modal cannot be reached" in done.stdout
    assert "Traceback" not in done.stdout
    assert not Path("hpo.db").exists()


def test_without_a_token(on_modal: Modal) -> None:
    nothing = {"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": "", "MODAL_CONFIG_PATH": os.devnull}
    began = time.monotonic()
    done = command(on_modal, "--executor", "modal", **nothing)
    seconds = time.monotonic() - began
    assert done.returncode == 2
    assert "modal token new" in done.stdout
    assert seconds < 2 or os.getloadavg()[0] > 2
    base = ["--objective", f"{OBJECTIVES.stem}:quadratic"]
    done = command(on_modal, *base, **nothing)
    assert done.returncode == 0
    assert "no Modal token" in done.stdout.splitlines()[0]


def test_nobody_is_billed_by_surprise(on_modal: Modal) -> None:
    base = ["--objective", f"{OBJECTIVES.stem}:quadratic", "--study", "asked"]
    before = len(on_modal.plane.calls())
    done = command(on_modal, *base)
    assert done.returncode == 2
    assert "--max-cost" in done.stdout
    assert "--yes" in done.stdout
    for answer, code in (("n", 2), ("y", 0)):
        assert len(on_modal.plane.calls()) == before
        text, returned = on_a_terminal(answer, *base)
        assert returned == code, text
        assert "worst case" in text
    assert len(on_modal.trial_calls(before)) == 2
    limit = re.search(r"with \$([0-9.]+) as the limit", text)
    assert limit is not None
    assert f"of ${limit[1]}" in text


def on_a_terminal(answer: str, *arguments: str) -> tuple[str, int]:
    """Run ``hpo.run`` on a terminal on which somebody answers the question."""
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo.run", "--trials", "2", "--workers", "2", *arguments],
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    text = b""
    answered = False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # how a terminal says that the other side is closed
            break
        text += data
        if not answered and b"[y/N]" in text:
            os.write(terminal, f"{answer}\n".encode())
            answered = True
        if not data:
            break
    os.close(terminal)
    return text.decode(errors="replace"), process.wait(30)


def test_nothing_of_modal_that_is_used_is_deprecated(on_modal: Modal) -> None:
    with warnings.catch_warnings():
        for kind in (DeprecationError, AsyncUsageWarning, PendingDeprecationWarning):
            warnings.simplefilter("error", kind)
        ran = on_modal.run("quadratic", 2)
    assert {call.status for call in ran.calls} == {"done"}
    for container in on_modal.plane.containers():
        log = container.log.read_text(errors="replace")
        assert not re.search("Deprecat|AsyncUsageWarning", log), log


@given(st.text(min_size=1, max_size=120), st.integers(0, 12))
def test_names_on_modal(text: str, room: int) -> None:
    name = modal_name(text, room)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name)
    assert len(name) <= 64 - room


def test_studies_with_long_names_have_apps_of_their_own() -> None:
    assert app_name("pairs-1.2") == "hpo-pairs-1.2"
    assert app_name("x" * 99 + "1") != app_name("x" * 99 + "2")
    assert app_name("é") != app_name("è")


def test_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sweep.py").touch()
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "sweep.py").touch()
    here = ObjectiveSpec(reference="sweep:objective", path=(str(tmp_path),))
    assert sources_of(here, ()) == (Source(tmp_path / "sweep.py", "/root/sweep.py"),)
    # A module that a script imported is where Python found it.
    monkeypatch.syspath_prepend(str(tmp_path))
    found = ObjectiveSpec(reference="package.inner:objective")
    assert sources_of(found, ()) == (Source(tmp_path / "package", "/root/package"),)
    assert sources_of(ObjectiveSpec(reference="optuna.x:y"), ()) == ()
    assert sources_of(ObjectiveSpec(reference="objectives:FineTune"), ()) == ()
    with pytest.raises(InputError, match="there is no such file"):
        sources_of(here, ("nothing.py",))
    with pytest.raises(InputError, match="rename one"):
        sources_of(here, (str(tmp_path / "deep" / "sweep.py"),))
    (tmp_path / "hpo").mkdir()
    with pytest.raises(InputError, match="rename one"):
        sources_of(here, (str(tmp_path / "hpo"),))


def test_junk_stays_here(tmp_path: Path) -> None:
    for name in ("a.py", "b/c.txt", "__pycache__/a.pyc", ".git/config", "b/.venv/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [name for name, _ in Source(tmp_path, "/root/x").files()]
    assert names == ["/root/x/a.py", "/root/x/b/c.txt"]
    assert is_junk(Path("b/.venv"))
