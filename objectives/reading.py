"""Labelled pairs from what people have: files of many layouts, or a Hugging Face data set.

Finds the two text columns and the label column by their usual names, reads the labels by a fixed
table of vocabularies, and drops rows that say nothing (counted, and said in the notes). Whatever
cannot be read with certainty is a `DataError`, because a study on misread labels looks like any
other study.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.pairs import DataError, Pairs
from objectives.tables import (
    FORMATS,
    READERS,
    Table,
    is_dataset_id,
    load_hub_dataset,
    read_table,
    shorten,
)

MIN_PAIRS = 50
"""Fewest pairs: validation and test at 15 % each then hold 7 pairs."""

MIN_OF_A_CLASS = 10
"""Fewest pairs of either label: validation and test at 15 % each then hold at least one."""

TEXT_STEMS = ("question", "sentence", "text", "q", "s", "t", "sent", "string", "str", "title")
"""Names of text columns that go by 1 and 2, or a and b, best first."""

TEXT_COLUMNS: tuple[tuple[str, str], ...] = (
    *((stem + one, stem + two) for one, two in ("12", "ab") for stem in TEXT_STEMS),
    ("1string", "2string"),
    ("premise", "hypothesis"),
    ("first", "second"),
    ("left", "right"),
    ("anchor", "positive"),
    ("query", "candidate"),
    ("a", "b"),
)
"""Accepted names of the two text columns, best first, folded as by `_fold_name`."""

NESTED_COLUMNS = ("questions", "sentences", "texts", "pair")
"""Accepted names of a column that holds both texts: [a, b] or {"text": [a, b]} (Quora's)."""

LABEL_COLUMNS = (
    "is_duplicate",
    "duplicate",
    "label",
    "labels",
    "is_paraphrase",
    "paraphrase",
    "quality",
    "is_similar",
    "similar",
    "is_same",
    "same",
    "is_match",
    "match",
    "is_equivalent",
    "equivalent",
    "target",
    "class",
    "gold_label",
    "gold",
    "y",
    "score",
    "similarity",
)
"""Accepted names of the label column, best first."""

VOCABULARIES: tuple[tuple[str, str], ...] = (
    ("0", "1"),
    ("-1", "1"),
    ("false", "true"),
    ("f", "t"),
    ("no", "yes"),
    ("n", "y"),
    ("not_duplicate", "duplicate"),
    ("non_duplicate", "duplicate"),
    ("not_paraphrase", "paraphrase"),
    ("not_equivalent", "equivalent"),
    ("not_similar", "similar"),
    ("dissimilar", "similar"),
    ("not_match", "match"),
    ("no_match", "match"),
    ("different", "same"),
    ("negative", "positive"),
)
"""Accepted labels as (label 0, label 1); case, spaces and hyphens don't matter, and 1.0 is 1."""

MISSING = frozenset({"", "nan", "null", "\\n"})
"""What exporters write for a missing value, in lower case; `\\N` is what databases write."""


@dataclass(frozen=True)
class Reading:
    """What was read: the pairs, notes for people on what was dropped, and where it came from."""

    pairs: Pairs
    notes: list[str]
    source: str


def read_pairs(source: str | Path) -> Reading:
    """Read labelled pairs from a file or from a Hugging Face data set.

    `source` is a path (CSV, TSV, JSON lines, a JSON list, Parquet) or a dataset id, as in
    `id`, `id:split` or `id@configuration:split`. A path that exists wins over an id; text that
    looks like a path and does not exist is an error.

    Texts are kept as they are but for white space around them. Dropped, counted and noted are:
    rows with an empty or missing text or label; repeats of a pair, in either order; and every copy
    of a pair that carries both labels, since nothing says which one is right.

    Raises `DataError` for anything else: see the messages.
    """
    text = str(source)
    path = Path(os.path.expanduser(text))
    # Unlike Path.exists(), os.path.exists() answers False for names no system would take.
    if isinstance(source, Path) or os.path.exists(path) or _looks_like_a_path(text):
        table = read_table(path)
    elif is_dataset_id(text):
        table = load_hub_dataset(text)
    else:
        raise DataError(
            f"{text!r} is neither a file nor a dataset id; expected {FORMATS}, or a Hugging Face "
            "id such as owner/name, owner/name:split or owner/name@configuration"
        )
    pairs, notes = pairs_of_table(table, text)
    return Reading(pairs, notes, text)


def _looks_like_a_path(text: str) -> bool:
    # A dataset id has one slash at most, and no hub account starts with these characters.
    return (
        not text
        or text[0] in "./~"
        or text.count("/") > 1
        or "\\" in text
        or Path(text).suffix.lower() in READERS
    )


def pairs_of_table(table: Table, source: str) -> tuple[Pairs, list[str]]:
    """Find the pairs in a table; returns them with notes, `source` names the table in errors."""
    first, second, label_name, notes = _columns(table, source)
    labels = _labels(table, label_name, source)
    kept: dict[tuple[str, str], tuple[str, str, int]] = {}
    again: Counter[tuple[str, str]] = Counter()
    conflicts: set[tuple[str, str]] = set()
    no_text: list[int] = []
    no_label: list[int] = []
    for row, (raw_one, raw_two, label) in enumerate(zip(first, second, labels, strict=True)):
        one = _text(raw_one, table, row, source)
        two = _text(raw_two, table, row, source)
        if one is None or two is None:
            no_text.append(row)
        elif label is None:
            no_label.append(row)
        else:
            key = (one, two) if one <= two else (two, one)
            known = kept.get(key)
            if known is None:
                kept[key] = (one, two, label)
                continue
            again[key] += 1
            if known[2] != label:
                conflicts.add(key)
    rows = [value for key, value in kept.items() if key not in conflicts]
    notes += _dropped(no_text, "with an empty or missing text", table)
    notes += _dropped(no_label, "without a label", table)
    conflicting = sum(again.pop(key) + 1 for key in conflicts)
    if repeats := again.total():
        notes.append(f"dropped {repeats:,} {'repeat' if repeats == 1 else 'repeats'} of pairs")
    if conflicts:
        noun = "pair that carries" if len(conflicts) == 1 else "pairs that carry"
        notes.append(f"dropped {conflicting:,} rows of {len(conflicts):,} {noun} both labels")
    pairs = Pairs(
        tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(row[2] for row in rows)
    )
    _check_encodable(pairs, source)
    _check_amount(pairs, notes, source)
    return pairs, notes


def _dropped(rows: list[int], what: str, table: Table) -> list[str]:
    if not rows:
        return []
    noun = "row" if len(rows) == 1 else "rows"
    return [f"dropped {len(rows):,} {noun} {what} (first: {table.place(rows[0])})"]


def _check_encodable(pairs: Pairs, source: str) -> None:
    """Refuse halves of surrogate pairs, which JSON can spell and no UTF-8 file can hold."""
    try:
        "".join((*pairs.first, *pairs.second)).encode()
    except UnicodeEncodeError as error:
        around = ascii(str(error.object)[max(error.start - 20, 0) : error.end + 20])
        raise DataError(
            f"{source}: a text holds half a surrogate pair, which is no character: {around}; "
            "write the file again from its origin, as UTF-8"
        ) from error


def _check_amount(pairs: Pairs, notes: Sequence[str], source: str) -> None:
    positives = pairs.positives
    negatives = len(pairs) - positives
    counts = f"{len(pairs):,} usable pairs, {positives:,} labelled 1 and {negatives:,} labelled 0"
    if notes:
        counts += f" ({'; '.join(notes)})"
    if pairs and not (positives and negatives):
        raise DataError(
            f"{source} holds a single class: {counts}; training and scoring need pairs of both "
            "labels, so add the other kind"
        )
    if len(pairs) < MIN_PAIRS or min(positives, negatives) < MIN_OF_A_CLASS:
        raise DataError(
            f"{source} holds too few pairs: {counts}; at least {MIN_PAIRS}, and {MIN_OF_A_CLASS} "
            "of either label, are needed to split them into train, validation and test; add more"
        )


# ---------------------------------------------------------------- columns


def _fold_name(name: str) -> str:
    """Reduce a column name to what is compared: "Question 1" and question_1 are question1."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _columns(table: Table, source: str) -> tuple[Sequence[Any], Sequence[Any], str, list[str]]:
    """Return the two text columns, the name of the label column, and notes on any choice made."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(table.names):
        places.setdefault(_fold_name(name), []).append(index)
    couples = [couple for couple in TEXT_COLUMNS if couple[0] in places and couple[1] in places]
    nested = [name for name in NESTED_COLUMNS if name in places]
    label_names = [name for name in map(_fold_name, LABEL_COLUMNS) if name in places]
    if not (couples or nested) or not label_names:
        raise DataError(_unrecognised(table, source, bool(couples or nested), bool(label_names)))
    texts = couples[0] if couples else (nested[0],)
    chosen = [*texts, label_names[0]]
    for name in chosen:
        if len(places[name]) > 1:
            found = " and ".join(repr(table.names[index]) for index in places[name])
            raise DataError(f"{source}: the columns {found} have the same name; keep one of them")
    spelled = [table.names[places[name][0]] for name in chosen]
    notes = []
    if len(couples) + len(nested) > 1 or len(label_names) > 1:
        notes.append(f"columns used: {', '.join(spelled[:-1])} and the label {spelled[-1]}")
    columns = [table.column(places[name][0]) for name in texts]
    if len(columns) == 1:
        columns = _unnest(columns[0], spelled[0], table, source)
    return columns[0], columns[1], spelled[-1], notes


def _unrecognised(table: Table, source: str, texts: bool, label: bool) -> str:
    found = ", ".join(shorten(name, 40) or "''" for name in table.names[:12])
    if len(table.names) > 12:
        found += f" and {len(table.names) - 12} more"
    missing = " and ".join(
        what
        for what, there in (("two text columns", texts), ("a label column", label))
        if not there
    )
    others = ", ".join("/".join(couple) for couple in TEXT_COLUMNS[2 * len(TEXT_STEMS) :])
    return (
        f"{source}: {missing} not recognised; the columns found are: {found or 'none'}. Accepted "
        f"names of the texts are question1/question2 (or, with 1/2 or a/b, "
        f"{', '.join(TEXT_STEMS[1:])}), {others}, or one column {'/'.join(NESTED_COLUMNS)} with "
        f"both; of the label {', '.join(LABEL_COLUMNS)}. Case, spaces, _ and - do not matter. "
        "Rename the columns; a file without a header needs one"
    )


def _unnest(values: Iterable[Any], name: str, table: Table, source: str) -> list[Sequence[Any]]:
    """Take apart a column of [a, b] or {"text": [a, b]}."""
    first: list[Any] = []
    second: list[Any] = []
    for row, value in enumerate(values):
        inner = value.get("text", value) if isinstance(value, dict) else value
        if inner is None:
            inner = [None, None]
        if not isinstance(inner, (list, tuple)) or len(inner) != 2:
            raise DataError(
                f"{source}, {table.place(row)}: {name} must hold two texts, as [a, b] or "
                f'{{"text": [a, b]}}, but got {shorten(repr(value))}'
            )
        first.append(inner[0])
        second.append(inner[1])
    return [first, second]


def _text(value: Any, table: Table, row: int, source: str) -> str | None:
    """Return the text without white space around it, or None where it is missing."""
    if isinstance(value, str):
        text = value.strip()
        return None if text.lower() in MISSING else text
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    raise DataError(
        f"{source}, {table.place(row)}: a text column holds {shorten(repr(value))}, which is "
        f"{type(value).__name__} and not text; store texts as strings"
    )


# ---------------------------------------------------------------- labels


def _labels(table: Table, name: str, source: str) -> list[int | None]:
    """Read the label column as 0, 1 or None (missing)."""
    values = table.column(table.names.index(name))
    classes = table.classes.get(name)
    if classes is not None:
        # Names say what a code means: some data sets give the code 0 to duplicates. A negative
        # code is how hidden labels of test sets are stored.
        by_name = _vocabulary({_fold_label(of) for of in classes}) is not None
        meaning = [_fold_label(of) if by_name else str(code) for code, of in enumerate(classes)]
        folded = [None if v is None or v < 0 else meaning[v] for v in values]
    else:
        folded = [_fold_label(value) for value in values]
    counts = Counter(label for label in folded if label is not None)
    vocabulary = _vocabulary(set(counts))
    if vocabulary is None:
        raise DataError(_not_binary(counts, folded, table, name, source))
    codes = {vocabulary[0]: 0, vocabulary[1]: 1}
    return [None if label is None else codes[label] for label in folded]


def _fold_label(value: Any) -> str | None:
    """Bring a label into the spelling of `VOCABULARIES`, None if it is missing."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "1" if value else "0"
    text = str(value).strip().casefold()
    if text in MISSING:
        return None
    if text[-1].isdigit() or text[-1] == ".":
        try:
            number = float(text)
        except ValueError:
            return text
        return str(int(number)) if number.is_integer() else text
    return "_".join(text.replace("-", " ").replace("_", " ").split())


def _vocabulary(labels: set[str | None]) -> tuple[str, str] | None:
    """Return the vocabulary that holds all these labels; "1" alone belongs to (0, 1)."""
    return next((words for words in VOCABULARIES if labels <= set(words)), None)


def _not_binary(
    counts: Counter[str], folded: Sequence[str | None], table: Table, name: str, source: str
) -> str:
    # The vocabulary that covers the most rows is taken as the one that was meant.
    meant = max(VOCABULARIES, key=lambda words: counts[words[0]] + counts[words[1]])
    wrong = [label for label, _ in counts.most_common() if label not in meant]
    examples = "; ".join(
        f"{shorten(label, 40)!r} ({table.place(folded.index(label))}, {counts[label]:,} in all)"
        for label in wrong[:4]
    )
    more = f" and {len(wrong) - 4:,} other values" if len(wrong) > 4 else ""
    advice = "map every label to 0 (not the same) or 1 (the same)"
    if all(_is_number(label) for label in counts):
        advice = (
            f"turn scores into labels by a threshold of your choice, as in label = 1 if {name} >= "
            "t else 0"
        )
    known = ", ".join("/".join(words) for words in VOCABULARIES)
    return (
        f"{source}: labels must be binary, but the column {name} holds {examples}{more}; "
        f"accepted are two values, one of {known}; {advice}"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
