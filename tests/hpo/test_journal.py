"""The file of events that wait for the database."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import StudyStoppedError
from hpo.journal import Journal
from hpo.protocol import AnyEvent, Cause, Done, Failed, Report, SetAttr


def report(sequence: int, attempt: str = "0.1.a", value: float = 0.5) -> Report:
    return Report(attempt=attempt, sequence=sequence, step=sequence, value=value)


EVENTS: list[AnyEvent] = [
    report(0),
    report(1, value=math.inf),
    SetAttr(attempt="0.1.a", sequence=2, key="memo", value={"lines": "one\ntwo\u2028three\r"}),
    Done(attempt="0.1.a", sequence=3, state="complete", values=(0.5,), curve=((0, 0.5),)),
    Failed(attempt="1.1.b", sequence=0, cause=Cause.LOST, message="gone", log_tail="a\nb\n"),
]


def held(journal: Journal) -> list[AnyEvent]:
    """Return what is in the journal, and empty it."""
    found = []
    while journal:
        found.append(journal.first)
        journal.drop_first()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "s" / "unwritten.jsonl"


def test_events_survive_the_process_that_heard_them(path: Path) -> None:
    journal = Journal(path)
    for event in EVENTS:
        journal.append(event)
    assert len(journal) == len(EVENTS)
    assert held(Journal(path)) == EVENTS


def test_the_file_is_there_only_while_there_is_something_in_it(path: Path) -> None:
    journal = Journal(path)
    assert not path.exists()
    journal.append(EVENTS[0])
    journal.append(EVENTS[1])
    assert len(path.read_bytes().splitlines()) == 2
    journal.drop_first()
    assert journal.first == EVENTS[1]
    journal.drop_first()
    assert not path.exists()
    journal.append(EVENTS[2])
    assert held(Journal(path)) == [EVENTS[2]]


def test_an_event_that_is_written_while_older_ones_are_applied_is_kept(path: Path) -> None:
    journal = Journal(path)
    for event in EVENTS[:3]:
        journal.append(event)
    journal.drop_first()
    journal.append(EVENTS[3])
    # Killed here: what was applied may come again, what was not applied must.
    assert held(Journal(path))[-3:] == EVENTS[1:4]


def test_the_events_of_one_attempt(path: Path) -> None:
    journal = Journal(path)
    for event in EVENTS:
        journal.append(event)
    assert journal.of("0.1.a") == EVENTS[:4]
    assert journal.of("1.1.b") == EVENTS[4:]
    assert journal.of("2.1.c") == []
    assert len(journal) == len(EVENTS)


@given(cut=st.integers(1, 10_000))
def test_a_torn_last_line_is_dropped_and_spoils_no_later_one(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "unwritten.jsonl"
    whole = Journal(path)
    for event in EVENTS:
        whole.append(event)
    data = path.read_bytes()
    kept = data[: cut % len(data)]
    path.write_bytes(kept)
    complete = kept.count(b"\n")
    journal = Journal(path)
    assert len(journal) == complete
    journal.append(report(9))
    assert held(Journal(path)) == [*EVENTS[:complete], report(9)]


@pytest.mark.parametrize(
    "line", [b"{}\n", b"not json\n", b'{"kind":"report","attempt":"0.1.a"}\n', b"\xff\xfe\n", b"\n"]
)
def test_a_damaged_line_is_refused_by_its_number_and_nothing_is_lost(
    path: Path, line: bytes
) -> None:
    journal = Journal(path)
    journal.append(EVENTS[0])
    journal.append(EVENTS[1])
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = lines[0] + line + lines[1]
    path.write_bytes(damaged)
    with pytest.raises(StudyStoppedError) as caught:
        Journal(path)
    message = str(caught.value)
    assert f"{path}, line 2 is damaged" in message
    assert "move the file away" in message
    assert path.read_bytes() == damaged


def test_a_file_that_cannot_be_used_stops_the_study(tmp_path: Path) -> None:
    (tmp_path / "unwritten.jsonl").mkdir()
    with pytest.raises(StudyStoppedError, match=r"cannot read .*unwritten\.jsonl"):
        Journal(tmp_path / "unwritten.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyStoppedError, match=r"cannot (read|write) "):
        Journal(tmp_path / "file" / "unwritten.jsonl").append(EVENTS[0])
