"""The wire protocol: every message survives the wire, and nothing else is taken for one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.protocol import (
    Cause,
    Done,
    Failed,
    Message,
    ObjectiveSpec,
    Param,
    ProtocolError,
    Report,
    SetAttr,
    Started,
    Stop,
    Suggest,
    Suggested,
    Task,
    Verdict,
    decode_event,
    decode_reply,
    decode_task,
    encode,
)

# Surrogates cannot be written as UTF-8, so no objective can have read or printed them either.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
numbers = st.floats(allow_nan=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
base: dict[str, Any] = {"attempt": text, "sequence": st.integers(0, 10**9)}

events = st.one_of(
    st.builds(
        Started, **base, machine=text, process=st.integers(0, 2**22), device=st.none() | text
    ),
    st.builds(Report, **base, step=st.integers(0, 10**9), value=numbers),
    st.builds(Suggest, **base, name=text, distribution=text),
    st.builds(SetAttr, **base, key=text, value=json_values),
    st.builds(
        Done,
        **base,
        state=st.sampled_from(["complete", "pruned"]),
        values=st.lists(numbers, max_size=3).map(tuple),
        curve=st.lists(st.tuples(st.integers(0, 100), numbers), max_size=5).map(tuple),
        user_attrs=st.dictionaries(text, json_values, max_size=3),
        constraints=st.dictionaries(text, numbers, max_size=3),
    ),
    st.builds(
        Failed,
        **base,
        cause=st.sampled_from(Cause),
        message=text,
        traceback=text,
        log_tail=text,
    ),
)
replies = st.one_of(
    st.builds(Suggested, name=text, value=st.none() | numbers, error=text),
    st.builds(Verdict, step=st.integers(0, 10**9), prune=st.booleans()),
    st.builds(Stop),
)
tasks = st.builds(
    Task,
    attempt=text,
    study=text,
    number=st.integers(-1, 10**6),
    method=st.sampled_from(["__call__", "baseline"]),
    objective=st.builds(
        ObjectiveSpec,
        reference=text,
        options=st.none() | st.dictionaries(text, json_values, max_size=3),
        path=st.lists(text, max_size=2).map(tuple),
    ),
    params=st.dictionaries(text, st.builds(Param, distribution=text, value=numbers), max_size=3),
    user_attrs=st.dictionaries(text, json_values, max_size=3),
    constraints=st.dictionaries(text, numbers, max_size=3),
    directions=st.lists(st.sampled_from(["minimize", "maximize"]), max_size=3).map(tuple),
    created=text,
    seed=st.integers(0, 2**31),
    directory=text,
    resume=st.booleans(),
    data=st.none() | text,
    log=text,
)


@given(events)
def test_every_event_round_trips(event: Any) -> None:
    assert decode_event(encode(event)) == event


@given(replies)
def test_every_reply_round_trips(reply: Any) -> None:
    assert decode_reply(encode(reply)) == reply


@given(tasks)
def test_every_task_round_trips(task: Task) -> None:
    assert decode_task(encode(task)) == task


def test_nan_survives_the_wire() -> None:
    event = decode_event(encode(Report(attempt="a", sequence=0, step=1, value=math.nan)))
    assert isinstance(event, Report)
    assert math.isnan(event.value)


def good_task() -> dict[str, Any]:
    task = Task(
        attempt="a",
        study="s",
        number=0,
        objective=ObjectiveSpec(reference="m:f"),
        created="2026-01-01T00:00:00",
        seed=0,
        directory="d",
        place="d",
        log="l",
    )
    return dict(json.loads(encode(task)))


def test_a_task_of_another_version_is_refused() -> None:
    message = {**good_task(), "version": 99}
    with pytest.raises(ProtocolError, match=r"version.*got '99'.*same hpo version"):
        decode_task(json.dumps(message).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04K\x01.",  # a pickle
        b"[]",
        b'{"kind": "launch", "attempt": "a", "sequence": 0}',
        b'{"kind": "report", "attempt": "a", "sequence": -1, "step": 1, "value": 1}',
        b'{"kind": "report", "attempt": "a", "sequence": 0, "step": 1}',
        b'{"kind": "report", "attempt": "a", "sequence": 0, "step": 1, "value": 1, "extra": 1}',
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no event of protocol 1"):
        decode_event(data)


def test_messages_are_frozen() -> None:
    message: Message = Verdict(step=1, prune=False)
    with pytest.raises(ValueError, match="frozen"):
        message.step = 2  # type: ignore[attr-defined]
