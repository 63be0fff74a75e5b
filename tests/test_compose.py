"""docker-compose.yml and Dockerfile: safe as written, and their commands run as written.

No container engine is needed: the file is read, and each service's command is run here with that
service's environment against a real PostgreSQL, which stands in for the one in its container.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.postgres import PostgresServer

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()
SECRETS = {"POSTGRES_PASSWORD": "p@ss/w:rd %$ü", "HPO_DASHBOARD_PASSWORD": "open sesame"}
"""With characters that would have to be encoded in a URL."""


def interpolated(value: Any, environment: dict[str, str]) -> Any:
    """Fill in ``${NAME:?…}`` and ``${NAME:-default}`` as Compose does."""
    if isinstance(value, dict):
        return {key: interpolated(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, environment) for each in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = environment.get(match["name"], "")
        if not found and match["kind"] == "?":
            raise KeyError(match["name"])
        return found or match["rest"]

    return re.sub(r"\$\{(?P<name>\w+):(?P<kind>[?-])(?P<rest>[^}]*)\}", fill, value)


SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_passwords_are_required(name: str) -> None:
    assert interpolated(SERVICES, SECRETS)
    with pytest.raises(KeyError, match=name):
        interpolated(SERVICES, {**SECRETS, name: ""})


def test_only_this_machine_is_published_to() -> None:
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    published = [port for each in interpolated(ports, SECRETS).values() for port in each]
    assert published == ["127.0.0.1:5432:5432", "127.0.0.1:8080:8080"]


def test_services_wait_for_what_they_need() -> None:
    waits = {
        name: {of: how["condition"] for of, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    ready = {"schema": "service_completed_successfully"}
    assert waits == {
        "postgres": {},
        "schema": {"postgres": "service_healthy"},
        "dashboard": ready,
        "coordinator": ready,
    }
    assert SERVICES["postgres"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert SERVICES["coordinator"]["profiles"] == ["coordinator"]


def test_the_image_has_every_file_that_it_copies_and_no_other() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = {
        source
        for line in re.findall(r"^COPY (.+)$", dockerfile, re.M)
        for source in line.split()[:-1]
    }
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M))
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert re.search(r"^USER hpo$", dockerfile, re.M)
    assert 'ENTRYPOINT ["python", "-m", "hpo.run"]' in dockerfile


def compose_command() -> list[str] | None:
    """Return the command of Compose that is installed, if one is."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
            return command
    return None


def test_compose_understands_the_file() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("Docker Compose is not installed")
    for environment, expected in ((SECRETS, 0), ({}, 1)):
        done = subprocess.run(
            [*command, "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert min(done.returncode, 1) == expected, done.stderr


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[str]:
    """The database as the image of PostgreSQL makes it; the address for ``postgres:5432``."""
    service = interpolated(SERVICES["postgres"]["environment"], SECRETS)
    role, name = service["POSTGRES_USER"], service["POSTGRES_DB"]
    postgres_server.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{service['POSTGRES_PASSWORD']}'",
        f"CREATE DATABASE {name} OWNER {role}",
    )
    yield f"127.0.0.1:{postgres_server.port}"
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {role}")


def start(service: str, address: str, directory: Path, **changes: str) -> subprocess.Popen[str]:
    """Start a service's own command with its own environment, and nothing else of this one's."""
    written = interpolated(SERVICES[service], SECRETS)
    environment = {
        name: value.replace("postgres:5432", address)
        for name, value in written["environment"].items()
    }
    default = ["python", "-m", "hpo.run"]  # the ENTRYPOINT of the Dockerfile
    words = [changes.get(word, word) for word in written.get("entrypoint", default)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [*words, *changes.get("arguments", "").split()],
        executable=shutil.which(words[0], path=path),
        env={"PATH": path, "HOME": str(directory), **environment},
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_schema_study_and_dashboard_run_as_written(
    database: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    for _ in range(2):  # it is run at every start
        schema = start("schema", database, tmp_path)
        said, _ = schema.communicate(timeout=60)
        assert schema.returncode == 0, said
        assert "ready  postgresql://hpo@127.0.0.1" in said

    shutil.copy(ROOT / "docs" / "quadratic.py", tmp_path)
    arguments = "--objective quadratic:objective --executor inline --trials 3 --study compose"
    study = start("coordinator", database, tmp_path, arguments=arguments)
    said, _ = study.communicate(timeout=120)
    assert study.returncode == 0, said

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with start("dashboard", database, tmp_path, **{"8080": port}) as dashboard:
        try:
            assert dashboard.stdout is not None
            line = dashboard.stdout.readline()
            assert f"http://localhost:{port}/dashboard" in line, line + dashboard.stdout.read()
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/api/studies")
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(asked, timeout=30)
            login = base64.b64encode(f"me:{SECRETS['HPO_DASHBOARD_PASSWORD']}".encode()).decode()
            asked.add_header("Authorization", f"Basic {login}")
            with urllib.request.urlopen(asked, timeout=30) as answer:
                assert b'"study_name": "compose"' in answer.read()
        finally:
            dashboard.terminate()
            rest = dashboard.stdout.read() if dashboard.stdout is not None else ""
    assert dashboard.returncode == 0
    assert SECRETS["HPO_DASHBOARD_PASSWORD"] not in line + rest
    assert (tmp_path / "runs" / "compose").is_dir()
