"""What the tests of Modal's Volumes share: commands and scripts as clients of a control plane."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from storage import open_storage
from tests.modal_loopback import ControlPlane

VOLUMES = """
import modal
for name in ("hpo-runs", "hpo-studies"):
    modal.Volume.from_name(name, create_if_missing=True).hydrate()
"""
"""A script that makes the Volumes."""


class Client:
    """Somebody whose cache and current directory are ``home``.

    Args:
        plane: The control plane that they have a token for; ``None`` for nobody's token.
        home: The directory.
    """

    def __init__(self, plane: ControlPlane | None, home: Path) -> None:
        own = {name: value for name, value in os.environ.items() if not is_ours(name)}
        nothing = {"MODAL_CONFIG_PATH": str(home / "no-modal.toml")}
        modal = nothing if plane is None else plane.environment()
        self.environment = {**own, **modal, "XDG_CACHE_HOME": str(home / "cache")}
        self._home = home

    def hpo(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command of hpo, in an environment with ``changes``."""
        code = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
        return self._run(code, *arguments, **changes)

    def script(self, code: str, *arguments: str) -> str:
        """Run Python code; return what it printed."""
        done = self._run(code, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _run(self, code: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**self.environment, **changes},
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def is_ours(name: str) -> bool:
    """Whether a variable of the environment says something to hpo or to Modal's client."""
    return name.startswith(("HPO_", "MODAL_"))


def make_snapshot(path: Path, *values: float, study: str = "demo") -> None:
    """Write a database as a coordinator on Modal keeps it: one file, with completed trials."""
    url = f"sqlite:///{path}"
    fill_study(url, *values, study=study)
    storage = open_storage(url)
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    storage.engine.dispose()


def fill_study(
    url: str, *values: float, study: str = "demo", model: str | None = None
) -> optuna.Study:
    """Make a study, or go on with one, and add completed trials."""
    storage = open_storage(url)
    made = optuna.create_study(
        storage=storage, study_name=study, direction="maximize", load_if_exists=True
    )
    for value in values:
        made.add_trial(
            create_trial(
                value=value,
                params={"x": value},
                distributions={"x": FloatDistribution(0, 1)},
                user_attrs={} if model is None else {"model": model},
            )
        )
    storage.engine.dispose()
    return made
