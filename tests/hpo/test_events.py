"""The log of decisions: every moment a line, whatever happens to the file."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo.errors import InputError, StudyStoppedError
from hpo.events import Damaged, Event, EventLog, read_events
from hpo.status import Moment, Observer, Status

STATUS = Status(study="s", metric=None, maximize=True, trials=3)


def write(path: Path, *moments: Moment) -> None:
    log: Observer = EventLog(path)
    for moment in moments:
        log.on(moment, STATUS)
        log.tick(STATUS)
    log.close()
    log.close()


def events(path: Path) -> list[Event]:
    found = list(read_events(path))
    assert all(isinstance(each, Event) for each in found)
    return found  # type: ignore[return-value]


def test_a_moment_is_a_line_of_json(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "s" / "events.jsonl"
    write(
        path,
        Moment("begin", "study s"),
        Moment("ask", "trial 0", trial=0, attempt="0.1.abc", data={"params": {"x": 1e-5}}),
        Moment("failed", "trial 0 failed\nbadly", detail="Traceback\n  …", trial=0),
    )
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    first, second, third = map(json.loads, lines)
    assert set(first) == {"time", "kind", "text"}
    assert second["trial"] == 0
    assert (second["attempt"], second["data"]) == ("0.1.abc", {"params": {"x": 1e-5}})
    assert "…" in lines[2]
    assert third["detail"] == "Traceback\n  …"
    read = events(path)
    assert [each.kind for each in read] == ["begin", "ask", "failed"]
    assert read[1].data == second["data"]
    assert abs(read[0].time.timestamp() - time.time()) < 60
    assert all(before.time <= after.time for before, after in pairwise(read))


def test_it_is_valid_json_whatever_the_facts_are(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    facts: dict[str, Any] = {
        "value": math.nan,
        "params": {"size": (1, math.inf), 3: Path("/x")},
        "file": "caf\udce9",
        "line": "one\u2028two",
    }
    write(path, Moment("report", "step 1: nan", data=facts))
    (line,) = path.read_bytes().splitlines()
    data = json.loads(line, parse_constant=lambda name: pytest.fail(name))["data"]
    assert data["value"] == "NaN"
    assert data["params"] == {"size": [1, "Infinity"], "3": "/x"}
    assert data["file"] == "caf\udce9"
    assert len(events(path)) == 1


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, Moment("begin", "one"))
    with path.open("ab") as file:
        file.write(b'{"time": "2026-01-01T00:00:00.000+00:00", "ki')
    write(path, Moment("begin", "two"), Moment("end", "three"))
    found = list(read_events(path))
    assert [each.text for each in found if isinstance(each, Event)] == ["one", "two", "three"]
    assert [each for each in found if isinstance(each, Damaged)] == [
        Damaged(2, '{"time": "2026-01-01T00:00:00.000+00:00"')
    ]


@pytest.mark.parametrize("line", ["3", "[]", "{}", '{"time": 3}', '{"time": "now"}', "\x00", ""])
def test_a_line_of_something_else_is_damaged(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line + "\n")
    (found,) = read_events(path)
    assert isinstance(found, Damaged)


KILLED = """
import sys
from pathlib import Path
from hpo.events import EventLog
from hpo.status import Moment, Status
log = EventLog(Path(sys.argv[1]))
number = 0
while True:
    log.on(Moment("report", "x" * 3000, data={"number": number}), Status("s", None, True, 1))
    print(number, flush=True)
    number += 1
"""


def test_what_was_logged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    while writer.stdout.readline() != "50\n":
        pass
    writer.send_signal(signal.SIGKILL)
    logged = [50, *map(int, writer.stdout.read().split())]
    writer.wait()
    numbers = [each.data["number"] for each in events(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > logged[-1]


def test_a_log_that_cannot_be_written_stops_the_study(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyStoppedError, match=r"file/events\.jsonl \(\w+ "):
        write(tmp_path / "file" / "events.jsonl", Moment("begin", "s"))
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(StudyStoppedError, match="Is a directory"):
        write(tmp_path / "events.jsonl", Moment("begin", "s"))


def test_a_full_disk_stops_the_study_and_leaves_the_log_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    write(path, Moment("begin", "s"))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # As a full disk does, the limit takes a part of the line and refuses the rest.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(StudyStoppedError, match="File too large"):
            write(path, Moment("ask", "trial 0"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    write(path, Moment("begin", "again"))
    found = list(read_events(path))
    assert [type(each) for each in found] == [Event, Damaged, Event]


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        list(read_events(tmp_path / "events.jsonl"))


# hpo log.


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    """A study in hpo.db whose log is in runs/s."""
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage="sqlite:///hpo.db", study_name="s")
    record = {"objective": None, "options": None, "seed": 0, "directory": str(tmp_path / "runs/s")}
    study.set_user_attr("hpo", record)
    write(
        tmp_path / "runs/s/events.jsonl",
        Moment("begin", "study s"),
        Moment("ask", "trial 7", trial=7, data={"params": {"x": 1}}),
        Moment("retry", "trial 7 again", trial=7, data={"reason": "its worker was lost"}),
        Moment("failed", "trial 12 failed", "Traceback\n  boom", trial=12),
    )
    return study


def log(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "log", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TZ": "Asia/Kathmandu"},
    )


def test_the_log_is_read_back_for_people(study: optuna.Study) -> None:
    lines = log().stdout.splitlines()
    hours, minutes = lines[0].split()[1].split(":")[:2]
    clock = time.gmtime(time.time() + 5.75 * 3600)
    assert (int(hours) * 60 + int(minutes) - clock.tm_hour * 60 - clock.tm_min) % 1440 in (0, 1439)
    assert [line[19:] for line in lines[:4]] == [
        "          begin     study s",
        "      #7  ask       trial 7",
        "      #7  retry     trial 7 again (its worker was lost)",
        "     #12  failed    trial 12 failed",
    ]
    assert lines[4:] == ["    Traceback", "      boom"]


@pytest.mark.slow
def test_the_log_can_be_narrowed(study: optuna.Study) -> None:
    assert len(log("--trial", "7").stdout.splitlines()) == 2
    assert len(log("--trial", "7", "--kind", "retry", "--kind", "stop").stdout.splitlines()) == 1
    (record,) = map(json.loads, log("--last", "1", "--json").stdout.splitlines())
    assert (record["trial"], record["detail"]) == (12, "Traceback\n  boom")
    wrong = log("--kind", "lunch")
    assert (wrong.returncode, "choose from begin" in wrong.stderr) == (2, True)


@pytest.mark.slow
def test_a_log_elsewhere(study: optuna.Study, tmp_path: Path) -> None:
    record = {**study.user_attrs["hpo"], "directory": "/home/somebody/runs/s"}
    study.set_user_attr("hpo", record)
    assert len(log().stdout.splitlines()) == 6  # of ./runs, the default of --out
    (tmp_path / "runs").rename(tmp_path / "moved")
    done = log()
    assert done.returncode == 2
    assert "no log of study 's' at /home/somebody/runs/s/events.jsonl nor" in done.stderr


def test_a_damaged_line_is_named(study: optuna.Study, tmp_path: Path) -> None:
    with (tmp_path / "runs/s/events.jsonl").open("a") as file:
        file.write('{"time": "20')
    done = log()
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 6)
    assert "line 5 of" in done.stderr


def test_a_log_can_be_followed(study: optuna.Study, tmp_path: Path) -> None:
    code = "import sys; from hpo.cli import main; sys.argv[0] = 'hpo'; main()"
    follower = subprocess.Popen(
        [sys.executable, "-c", code, "log", "--follow", "--last", "1", "--trial", "7"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert "trial 7 again" in follower.stdout.readline()
    path = tmp_path / "runs/s/events.jsonl"
    write(path, Moment("ask", "of another", trial=8), Moment("complete", "trial 7 done", trial=7))
    assert "trial 7 done" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    assert follower.communicate(timeout=20)[1] == "hpo: interrupted\n"
    assert follower.returncode == 130
