"""`Pairs` and its file form."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.pairs import DataError, Pairs, read_jsonl, write_jsonl

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PAIRS = st.lists(st.tuples(TEXT, TEXT, st.integers(0, 1)), max_size=12).map(
    lambda rows: Pairs(
        tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(row[2] for row in rows)
    )
)


def test_take_keeps_the_order_asked_for() -> None:
    pairs = Pairs(("a", "b", "c"), ("d", "e", "f"), (0, 1, 1))
    assert pairs.take([2, 0]) == Pairs(("c", "a"), ("f", "d"), (1, 0))
    assert len(pairs) == 3
    assert pairs.positives == 2
    assert list(pairs)[1] == ("b", "e", 1)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="2 first texts, 1 second texts and 2 labels"):
        Pairs(("a", "b"), ("c",), (0, 1))


@given(PAIRS)
def test_jsonl_round_trip(pairs: Pairs) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "pairs.jsonl"
        write_jsonl(pairs, path)
        assert read_jsonl(path) == pairs


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        '{"first": "a", "label": 1}',
        '{"first": "a", "second": null, "label": 1}',
        '{"first": "a", "second": "b", "label": 2}',
        '{"first": "a", "second": "b", "label": true}',
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"first": "a", "second": "b", "label": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 2: "):
        read_jsonl(path)
