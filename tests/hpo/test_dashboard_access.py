"""Who may ask the dashboard and who may write, and how ``hpo dashboard`` starts and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hpo.dashboard import open_dashboard
from hpo.dashboard.database import Database
from hpo.errors import InputError
from storage import open_storage
from tests.hpo.dashboard_support import SPACE, ask, login, make_study, serving

WRITES = [
    ("DELETE", "/api/studies/1", None),
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("POST", "/api/studies/1/rename", {"study_name": "new"}),
    ("PUT", "/api/studies/1/note", {"version": 1, "body": "mine"}),
    ("PUT", "/api/studies/1/1/note", {"version": 1, "body": "mine" * 100_000}),
    ("POST", "/api/trials/1/tell", {"state": "Fail"}),
    ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"a": 1}}),
    ("POST", "/api/artifacts/1/1", {"file": "data:text/plain;base64,aGk="}),
    ("DELETE", "/api/artifacts/1/1/ab", None),
    ("POST", "/api/llm/trial_filter_query", {"user_query": "x"}),
    ("POST", "/incompatible-rdb-schema", None),
    ("PATCH", "/dashboard", None),
]


def test_reading_only_is_the_default(url: str) -> None:
    storage = open_storage(url)
    make_study(url).ask(SPACE)

    def content() -> Any:
        with storage.engine.connect() as connection:
            return [
                list(connection.exec_driver_sql(f"SELECT * FROM {table}"))
                for table in ("studies", "trials", "study_system_attributes", "trial_params")
            ]

    before = content()
    with serving(url) as dashboard:
        for method, path, body in WRITES:
            refused = ask(dashboard, path, method, body)
            assert refused.status == 403, path
            assert "read-only" in refused.json["reason"]
            assert "--allow-writes" in refused.json["reason"]
        assert content() == before


def test_the_database_itself_refuses_to_be_written(url: str) -> None:
    make_study(url)
    database = Database(url, read_only=True)
    with pytest.raises(Exception, match=r"read-?only|exception is raised"):
        database.storage.set_study_user_attr(1, "a", 1)
    database.close()
    assert open_storage(url).get_study_user_attrs(1) == {}


def test_writes_pass_where_they_are_allowed(url: str) -> None:
    study = make_study(url)
    study.ask(SPACE)
    with serving(url, allow_writes=True) as dashboard:
        note = {"version": 1, "body": "**mine**"}
        assert ask(dashboard, "/api/studies/1/1/note", "PUT", note).status == 200
        assert ask(dashboard, "/api/studies/1").json["trials"][0]["note"] == note
        assert ask(dashboard, "/api/studies/1/1/note", "PUT", note).status == 409
        told = {"state": "Complete", "values": [0.5]}
        assert ask(dashboard, "/api/trials/1/tell", "POST", told).status == 200
        assert ask(dashboard, "/api/studies/1").json["trials"][0]["state"] == "Complete"
        assert ask(dashboard, "/api/studies/1", "DELETE").status == 200
        assert ask(dashboard, "/api/studies").json == {"study_summaries": []}


def test_pages_of_other_sites_may_neither_write_nor_read(sqlite_url: str) -> None:
    make_study(sqlite_url)
    with serving(sqlite_url, allow_writes=True) as dashboard:
        host = urlsplit(dashboard.url).netloc
        note = {"version": 1, "body": "theirs"}

        def write(**headers: str) -> int:
            return ask(dashboard, "/api/studies/1/note", "PUT", note, **headers).status

        assert write(Origin="https://evil.example") == 403
        assert write(Origin="null") == 403
        assert write(Origin=f"http://{host}.evil.example") == 403
        assert write(Sec_Fetch_Site="cross-site") == 403
        assert write(Host="evil.example") == 403
        assert ask(dashboard, "/api/studies", Host="evil.example").status == 403
        assert ask(dashboard, "/api/studies", Host="").status == 403
        assert ask(dashboard, "/api/studies", Host="127.0.0.1.evil.example").status == 403
        assert ask(dashboard, "/api/studies/1").json["note"]["version"] == 0
        for name in ("localhost:80", "[::1]:9", "127.0.0.1", "hpo.localhost"):  # an SSH tunnel
            assert ask(dashboard, "/api/studies", Host=name).status == 200
        assert write(Origin=f"http://{host}", Sec_Fetch_Site="same-origin") == 200
        page = ask(dashboard, "/dashboard")
        assert page.headers["X-Frame-Options"] == "SAMEORIGIN"


def test_with_a_password_nobody_gets_in_without_it(sqlite_url: str) -> None:
    make_study(sqlite_url)
    with serving(sqlite_url, host="0.0.0.0", password="grün:stark") as dashboard:
        assert "localhost" in dashboard.url
        paths = ["/", "/dashboard", "/api/studies", "/static/bundle.js", "/csv/1", "/nowhere"]
        for path in paths:
            refused = ask(dashboard, path, Host="hpo.example:8080")
            assert refused.status == 401
            assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        for wrong in (
            login("gruen"),
            login(""),
            "Basic %%%",
            "Bearer x",
        ):
            assert ask(dashboard, "/api/studies", Authorization=wrong).status == 401
        assert ask(dashboard, "/api/studies", "DELETE", Authorization=login("x")).status == 401
        for user in ("", "me"):
            let_in = ask(
                dashboard,
                "/api/studies",
                Host="hpo.example:8080",
                Authorization=login("grün:stark", user),
            )
            assert let_in.status == 200
        write = ask(dashboard, "/api/studies/1", "DELETE", Authorization=login("grün:stark"))
        assert write.status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_others_are_not_served_without_a_password(sqlite_url: str, host: str) -> None:
    make_study(sqlite_url)
    with pytest.raises(InputError, match="HPO_DASHBOARD_PASSWORD"):
        open_dashboard(sqlite_url, host=host, port=0)


def test_what_cannot_be_served_is_said(sqlite_url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_dashboard(sqlite_url, port=0)
    assert not list(tmp_path.iterdir())
    make_study(sqlite_url)
    with pytest.raises(InputError, match="holds no study 'other'; it holds s"):
        open_dashboard(sqlite_url, port=0, study="other")
    with pytest.raises(InputError, match="not a name or address"):
        open_dashboard(sqlite_url, port=0, host="nowhere.invalid")
    with pytest.raises(InputError, match="65535"):
        open_dashboard(sqlite_url, port=70_000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"already; choose another port"):
            open_dashboard(sqlite_url, port=taken.getsockname()[1])


def test_the_page_is_that_of_the_study(sqlite_url: str) -> None:
    make_study(sqlite_url, "first")
    with serving(sqlite_url) as dashboard:
        assert urlsplit(dashboard.url).path == "/dashboard/studies/1"
    make_study(sqlite_url, "second")
    with serving(sqlite_url) as dashboard:
        assert urlsplit(dashboard.url).path == "/dashboard"
    with serving(sqlite_url, study="second") as dashboard:
        assert urlsplit(dashboard.url).path == "/dashboard/studies/2"
        assert b"<html" in ask(dashboard, "/dashboard/studies/2").body
        assert ask(dashboard, "/").headers["Location"].endswith("/dashboard")


def start_command(*arguments: str, password: str = "") -> subprocess.Popen[str]:
    """Start ``hpo dashboard``; its first line is its URL."""
    return subprocess.Popen(
        [sys.executable, "-c", "from hpo.cli import main; main()", "dashboard", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HPO_DASHBOARD_PASSWORD": password},
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(
    sqlite_url: str, number: signal.Signals
) -> None:
    make_study(sqlite_url)
    arguments = ("--study", "s", "--storage", sqlite_url, "--port", "0", "--host", "localhost")
    with start_command(*arguments, password="open sesame") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split()[-1]
        assert urlsplit(url).path == "/dashboard/studies/1"
        assert urlsplit(url).port
        assert ask(url, "/api/studies").status == 401
        assert ask(url, "/api/studies", Authorization=login("open sesame")).status == 200
        assert ask(url, "/api/studies/1", "DELETE").status == 401
        process.send_signal(number)
        # Not communicate(), which would lose what readline() has taken from the pipe already.
        said, errors = process.stdout.read(), process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert "read-only" in said
    assert "sesame" not in said


@pytest.mark.slow
def test_the_command_refuses_what_it_cannot_serve(sqlite_url: str, tmp_path: Path) -> None:
    with start_command("--storage", sqlite_url, "--host", "0.0.0.0") as process:
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, said) == (2, "")
    assert errors.startswith("hpo: --host 0.0.0.0")
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())
