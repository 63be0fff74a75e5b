"""Reading pairs: every format, every layout, and every way in which a file can be wrong."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.pairs import DataError, Pairs
from objectives.reading import VOCABULARIES, pairs_of_table, read_pairs
from objectives.tables import table_of_dataset

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"

Row = tuple[Any, Any, Any]
HEADER = ("question1", "question2", "is_duplicate")
ROWS: list[Row] = [(f'What is "{i}", exactly?', f"Why; {i}\u2028x", i % 2) for i in range(60)]
PAIRS = Pairs(tuple(r[0] for r in ROWS), tuple(r[1] for r in ROWS), tuple(r[2] for r in ROWS))


def write_csv(path: Path, rows: Iterable[Row], header: Row = HEADER, **options: Any) -> Path:
    with path.open("w", encoding=options.pop("encoding", "utf-8"), newline="") as file:
        csv.writer(file, **options).writerows([header, *rows])
    return path


def write_raw(path: Path, rows: Iterable[Row], header: Row = HEADER, end: str = "\n") -> Path:
    lines = ["\t".join(map(str, row)) for row in (header, *rows)]
    path.write_text(end.join([*lines, ""]), encoding="utf-8", newline="")
    return path


def records(rows: Iterable[Row], header: Row = HEADER) -> list[dict[str, Any]]:
    return [dict(zip(header, row, strict=True)) for row in rows]


def write_lines(path: Path, items: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def write_json(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text(json.dumps(records(rows), indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def write_parquet(path: Path, items: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), path)
    return path


def nested(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [
        {"is_duplicate": bool(label), "questions": {"id": [1, 2], "text": [one, two]}}
        for one, two, label in rows
    ]


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "plain.csv": write_csv,
    "all-quoted.csv": lambda p, r: write_csv(p, r, quoting=csv.QUOTE_ALL),
    "semicolon.csv": lambda p, r: write_csv(p, r, delimiter=";"),
    "marked.csv": lambda p, r: write_csv(p, r, encoding="utf-8-sig"),
    "utf16.csv": lambda p, r: write_csv(p, r, encoding="utf-16"),
    "tabs.csv": write_raw,
    "raw.tsv": write_raw,
    "windows.tsv": lambda p, r: write_raw(p, r, end="\r\n"),
    "quoted.tsv": lambda p, r: write_csv(p, r, delimiter="\t"),
    "original.txt": lambda p, r: write_raw(p, r, ("#1 String", "#2 String", "Quality")),
    "flat.jsonl": lambda p, r: write_lines(p, records(r)),
    "nested.jsonl": lambda p, r: write_lines(p, nested(r)),
    "list.json": write_json,
    "lines.json": lambda p, r: write_lines(p, records(r)),
    "UPPER.JSONL": lambda p, r: write_lines(p, records(r)),
    "flat.parquet": lambda p, r: write_parquet(p, records(r)),
    "nested.parquet": lambda p, r: write_parquet(p, nested(r)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_back(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, ROWS)
    reading = read_pairs(str(path))
    assert reading.pairs == PAIRS
    assert reading.notes == []
    assert reading.source == str(path)


# White space at the ends is not kept, and a few words mean "missing".
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).map(
    lambda text: f"«{text}»"
) | st.sampled_from(['"', '""', '"a" b', 'a "b"', '"a', 'a"', "a,b;c", "'", '"x"'])


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(["csv", "tsv", "raw", "jsonl"]))
def test_texts_survive_quotes_delimiters_and_line_ends(data: st.DataObject, kind: str) -> None:
    text = TEXT
    if kind != "raw":
        text |= st.sampled_from(["a\tb", "a\nb", 'a\r\nb "c"\t', '"\n"', "a\n\nb"]).map(
            lambda t: f"<{t}>"
        )
    texts = data.draw(st.lists(text, min_size=60, max_size=60))
    rows: list[Row] = [(t, f"{i}", i % 2) for i, t in enumerate(texts)]
    with TemporaryDirectory() as directory:
        path = Path(directory) / f"pairs.{'tsv' if kind == 'raw' else kind}"
        if kind == "csv":
            write_csv(path, rows)
        elif kind == "tsv":
            write_csv(path, rows, delimiter="\t")
        elif kind == "jsonl":
            write_lines(path, records(rows))
        else:
            # What makes a raw file raw: a quote no quoting writer could have left.
            rows.append(('so-called "raw" text', "60", 0))
            write_raw(path, rows)
        found = read_pairs(path).pairs
    assert list(found) == [(one.strip(), two, label) for one, two, label in rows]


def test_quotes_across_lines_of_a_raw_file_do_not_merge_rows(tmp_path: Path) -> None:
    # By the rules of quoting these two lines are one row with all its fields.
    rows = [*ROWS, ('"open', "other", 1), ('close"', "another", 0)]
    rows = [
        (one.replace('"', "") if i < 60 else one, two, x) for i, (one, two, x) in enumerate(rows)
    ]
    assert list(read_pairs(write_raw(tmp_path / "raw.tsv", rows)).pairs) == rows


@pytest.mark.parametrize(
    "header",
    [
        ("Question1", "QUESTION2", "Is_Duplicate"),
        ("question 1", "question-2", "Label"),
        ("sentence1", "sentence2", "label"),
        ("text_a", "text_b", "target"),
        ("q1", "q2", "duplicate"),
        ("s1", "s2", "score"),
        ("premise", "hypothesis", "labels"),
        ("first", "second", "label"),
        ("#1 String", "#2 String", "Quality"),
        ("anchor", "positive", "same"),
    ],
)
def test_usual_column_names_are_recognised(tmp_path: Path, header: Row) -> None:
    assert read_pairs(write_csv(tmp_path / "x.csv", ROWS, header)).pairs == PAIRS


def test_a_choice_between_columns_is_said(tmp_path: Path) -> None:
    header = ("question1", "question2", "label", "score")
    rows = [(*row, 3.5) for row in ROWS]
    path = tmp_path / "x.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    reading = read_pairs(path)
    assert reading.pairs == PAIRS
    assert reading.notes == ["columns used: question1, question2 and the label label"]


@pytest.mark.parametrize(
    "words", [*VOCABULARIES, ("0.0", "1.0"), ("FALSE", "True"), (" No", "YES ")]
)
def test_every_vocabulary_of_labels(tmp_path: Path, words: tuple[str, str]) -> None:
    rows = [(one, two, words[label]) for one, two, label in ROWS]
    assert read_pairs(write_csv(tmp_path / "x.csv", rows)).pairs == PAIRS


@pytest.mark.parametrize("values", [(False, True), (0.0, 1.0), (-1, 1), ("0", "1"), (0, True)])
def test_labels_of_other_types(tmp_path: Path, values: tuple[Any, Any]) -> None:
    rows = [(one, two, values[label]) for one, two, label in ROWS]
    assert read_pairs(write_lines(tmp_path / "x.jsonl", records(rows))).pairs == PAIRS
    if values != (0, True):
        assert read_pairs(write_parquet(tmp_path / "x.parquet", records(rows))).pairs == PAIRS


# ---------------------------------------------------------------- what is dropped


def test_what_says_nothing_is_dropped_counted_and_said(tmp_path: Path) -> None:
    one, two, label = ROWS[3]
    rows = [
        *ROWS,
        ("", "no first text", 1),
        ("only white space", " \u00a0 ", 0),
        (None, "null", 1),
        ("not a number", float("nan"), 1),
        ("no label", "at all", None),
        (one, two, label),
        (two, one, label),
        ("both", "labels", 0),
        ("labels", "both", 1),
        ("both", "labels", 1),
    ]
    reading = read_pairs(write_lines(tmp_path / "x.jsonl", records(rows)))
    assert reading.pairs == PAIRS
    assert reading.notes == [
        "dropped 4 rows with an empty or missing text (first: line 61)",
        "dropped 1 row without a label (first: line 65)",
        "dropped 2 repeats of pairs",
        "dropped 3 rows of 1 pair that carries both labels",
    ]


def test_missing_cells_of_text_files(tmp_path: Path) -> None:
    rows = [*ROWS, ("NaN", "a", 1), ("b", "NULL", 0), ("\\N", "c", 0), ("d", "e", "")]
    reading = read_pairs(write_csv(tmp_path / "x.csv", rows))
    assert reading.pairs == PAIRS
    assert reading.notes == [
        "dropped 3 rows with an empty or missing text (first: line 62)",
        "dropped 1 row without a label (first: line 65)",
    ]


# ---------------------------------------------------------------- what is refused


def refused(source: str | Path) -> str:
    with pytest.raises(DataError) as caught:
        read_pairs(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("source", ["missing.csv", "./missing", "~/missing", "a/b/c", "no.PARQUET"])
def test_a_missing_file(source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(source)
    assert "no such file" in message
    assert Path(source).name in message
    assert ".parquet" in message


def test_a_name_no_system_takes() -> None:
    assert "cannot be read" in refused("x" * 5000 + ".csv")
    assert "neither a file nor a dataset id" in refused("what is this?")


def test_a_directory_and_an_unknown_suffix(tmp_path: Path) -> None:
    assert "is a directory" in refused(tmp_path)
    path = tmp_path / "pairs.xlsx"
    path.write_bytes(b"PK")
    assert "unknown suffix '.xlsx'" in refused(str(path))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_an_empty_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.touch()
    assert "is empty" in refused(path)
    if suffix != "parquet":
        path.write_text("\n \n")
        assert "nothing but white space" in refused(path)


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_a_file_without_permission(name: str) -> None:
    user = os.geteuid()
    # Not tmp_path: its parents are closed to others, and it is the file that must be closed here.
    with TemporaryDirectory() as directory:
        path = Path(directory) / name
        write_parquet(path, records(ROWS)) if name == "x.parquet" else write_csv(path, ROWS)
        path.parent.chmod(0o755)
        path.chmod(0)
        if user == 0:
            # Permissions don't bind root: become nobody for the moment.
            os.seteuid(65534)
        try:
            message = refused(path)
        finally:
            os.seteuid(user)
    assert f"{path} cannot be read: " in message
    assert "check its permissions" in message


def test_undecodable_bytes_are_located(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("question1,question2,label\ncafé,thé,1\n".encode("latin-1"))
    message = refused(path)
    assert "byte 29 (line 2, 0xe9)" in message
    assert "UTF-8" in message
    path.write_bytes(b"\xef\xbb\xbfa,b\n\xff")
    assert "byte 7 (line 2, 0xff)" in refused(path)
    path.write_bytes("question1".encode("utf-16-le"))
    assert "zero bytes" in refused(path)


def test_a_row_with_other_fields_is_located(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [("two\nlines", "a", 1), ("a", "b", 0)])
    path.write_text(path.read_text() + "c,d\n")
    assert "line 5: expected 3 fields as in the header, got 2: c|d" in refused(path)
    path = write_raw(tmp_path / "x.tsv", ROWS)
    path.write_text(path.read_text() + "a\tb\tc\td\n")
    assert "line 62: expected 3 fields" in refused(path)


@pytest.mark.parametrize("row", ['"never closed,b,1', '"closed" early,b,1'])
def test_wrong_quotes_are_located(tmp_path: Path, row: str) -> None:
    path = write_csv(tmp_path / "x.csv", ROWS)
    path.write_text(path.read_text(encoding="utf-8") + row + "\n", encoding="utf-8")
    assert "line 62: the quotes of the row" in refused(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"question1": "a"', "line 1: not valid JSON"),
        ('\n{"q1": "a", "q2": "b", "label": 1}\n"text"', "line 3: expected an object"),
        ('[{"q1": "a"},', "is not valid JSON"),
        ("[1]", "record 1: expected an object"),
        ("[]", "columns found are: none"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"q1": "a", "q2": 7, "label": 1}', "line 1: a text column holds 7, which is int"),
        ('{"questions": ["a"], "label": 1}', "line 1: questions must hold two texts"),
        ('{"questions": {"text": "ab"}, "label": 1}', "line 1: questions must hold two texts"),
        ('{"q1": "a", "q2": "b", "label": [1]}', "labels must be binary"),
        ('{"q1": "a", "Q1": "b", "q2": "c", "label": 1}', "'q1' and 'Q1' have the same name"),
    ],
)
def test_wrong_json(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert expected in refused(path)


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    rows = [*ROWS, ("\ud83d", "b", 1)]
    assert "half a surrogate pair" in refused(write_lines(tmp_path / "x.jsonl", records(rows)))


def test_damaged_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", records(ROWS))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a readable Parquet file" in refused(path)
    # The schema at the end is sound, the pages before it are not.
    path.write_bytes(whole[:4] + bytes(len(whole) // 3) + whole[4 + len(whole) // 3 :])
    assert "not a readable Parquet file" in refused(path)


def test_unknown_columns_are_listed(tmp_path: Path) -> None:
    message = refused(write_csv(tmp_path / "x.csv", ROWS, ("left text", "right text", "label")))
    assert "two text columns not recognised" in message
    assert "left text, right text, label" in message
    assert "question1/question2" in message
    message = refused(write_csv(tmp_path / "x.csv", ROWS, ("q1", "q2", "verdict")))
    assert message.count("a label column not recognised") == 1
    assert "is_duplicate" in message


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (2, "'2' (line 62, 1 in all)"),
        ("maybe", "'maybe' (line 62, 1 in all)"),
        (0.5, "label = 1 if is_duplicate >= t else 0"),
        ("yes", "'yes' (line 62, 1 in all)"),
        (-1, "'-1' (line 62, 1 in all)"),
    ],
)
def test_labels_that_are_not_binary(tmp_path: Path, label: Any, expected: str) -> None:
    message = refused(write_csv(tmp_path / "x.csv", [*ROWS, ("a", "b", label)]))
    assert "labels must be binary, but the column is_duplicate holds" in message
    assert expected in message


def test_a_single_class_and_too_few_pairs(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(one, two, 1) for one, two, _ in ROWS])
    assert "a single class: 60 usable pairs, 60 labelled 1 and 0 labelled 0" in refused(path)
    assert "too few pairs: 49 usable pairs" in refused(write_csv(path, ROWS[:49]))
    few = [(one, two, int(i < 9)) for i, (one, two, _) in enumerate(ROWS)]
    assert "9 labelled 1 and 51 labelled 0" in refused(write_csv(path, few))
    message = refused(write_csv(path, [*ROWS[:30], *[("", "b", 1)] * 40]))
    assert "30 usable pairs" in message
    assert "dropped 40 rows with an empty or missing text" in message
    assert "0 usable pairs" in refused(write_csv(path, []))


# ---------------------------------------------------------------- Hugging Face data sets


@pytest.mark.parametrize("names", [["not_duplicate", "duplicate"], ["a", "b"]])
def test_a_dataset_with_class_labels(names: list[str]) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
        }
    )
    items = records(ROWS, ("sentence1", "sentence2", "label"))
    dataset = datasets.Dataset.from_list(items, features=features)
    assert pairs_of_table(table_of_dataset(dataset), "x") == (PAIRS, [])


def test_a_dataset_whose_names_say_that_zero_is_a_duplicate() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "questions": {"id": [datasets.Value("int64")], "text": [datasets.Value("string")]},
            "is_duplicate": datasets.ClassLabel(names=["duplicate", "not_duplicate"]),
        }
    )
    items = [
        {"questions": {"id": [1, 2], "text": [one, two]}, "is_duplicate": 1 - label}
        for one, two, label in ROWS
    ]
    hidden = {"questions": {"id": [1, 2], "text": ["a", "b"]}, "is_duplicate": -1}
    dataset = datasets.Dataset.from_list([*items, hidden], features=features)
    pairs, notes = pairs_of_table(table_of_dataset(dataset), "x")
    assert pairs == PAIRS
    assert notes == ["dropped 1 row without a label (first: row 61)"]


def test_a_dataset_id_without_a_hub(tmp_path: Path) -> None:
    program = (
        "from objectives.reading import read_pairs\n"
        "try:\n"
        "    read_pairs('someone/some-pairs@plain:train')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'someone/some-pairs@plain:train' is no file here and cannot be loaded" in done.stdout
    assert "check the id and the network" in done.stdout


def test_reading_needs_nothing_heavy() -> None:
    program = (
        "import sys, objectives.reading, objectives.splits\n"
        "print({'torch', 'datasets', 'transformers', 'pyarrow', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "pairs", "positives"),
    [
        ("quora/pairs.tsv", 27_860, 0.376),
        ("msrp/msrp_train.tsv", 3_576, 0.673),
        ("msrp/msrp_val.tsv", 500, 0.692),
        ("msrp/msrp_test.tsv", 1_725, 0.665),
    ],
)
def test_real_files(name: str, pairs: int, positives: float) -> None:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the data set {name} is not on this machine")
    reading = read_pairs(path)
    # These files hold no missing text and no repeat: every row is a pair.
    assert (len(reading.pairs), reading.notes) == (pairs, [])
    assert reading.pairs.positives / pairs == pytest.approx(positives, abs=0.001)
    for (one, two, label), line in zip(
        reading.pairs, path.read_text(encoding="utf-8").split("\n")[1:], strict=False
    ):
        fields = line.split("\t")
        assert (one, two, str(label)) == (fields[2].strip(), fields[3].strip(), fields[4])


def test_real_scores_are_refused() -> None:
    path = REAL / "stsb" / "stsb_dev.tsv"
    if not path.exists():
        pytest.skip("the data set stsb is not on this machine")
    assert "label = 1 if score >= t else 0" in refused(path)
