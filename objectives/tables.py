"""Files and hub data sets as tables of named columns, whatever format they came in.

This is the part of reading that knows formats and nothing of pairs; `objectives.reading` finds the
pairs in a table. Every way in which a file can be wrong ends in one `DataError` that names the file
and the line, never in the traceback of a parser.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from objectives.pairs import DataError

FORMATS = "CSV (.csv), tab-separated (.tsv, .txt), JSON lines (.jsonl, .ndjson, .json), .parquet"


@dataclass(frozen=True)
class Table:
    """Named columns of equal length.

    `column(i)` returns the values of the column `names[i]`; it may read them only then. `numbers`
    says where each row stands in the source, counted in `unit` ("line" or "row", from 1). `classes`
    holds, for columns of integer codes that have them, the names of the codes from 0 up.
    """

    names: list[str]
    column: Callable[[int], Sequence[Any]]
    numbers: Sequence[int]
    unit: str
    classes: Mapping[str, list[str]] = field(default_factory=dict)

    def place(self, row: int) -> str:
        """Say for people where a row stands: "line 17"."""
        return f"{self.unit} {self.numbers[row]}"


def read_table(path: Path) -> Table:
    """Read a file of any known format; raises `DataError` for whatever is wrong with it."""
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise DataError(f"{path} is a directory; name one file: {FORMATS}")
        if not path.exists():
            raise DataError(
                f"no such file: {path}; expected {FORMATS}, or a Hugging Face dataset id"
            )
        if suffix not in READERS:
            raise DataError(f"{path} has the unknown suffix {suffix!r}; accepted are {FORMATS}")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty; it needs a header or records with labelled pairs")
        return READERS[suffix](path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be read: {reason}; check its permissions") from error


def read_text(path: Path) -> str:
    """Decode a file: UTF-8 with or without a byte order mark, or UTF-16 with one."""
    raw = path.read_bytes()
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding, name = ("utf-16", "UTF-16") if utf16 else ("utf-8-sig", "UTF-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        # The decoder of utf-8-sig counts from after the mark, when there is one.
        offset = error.start + (len(raw) - len(error.object))
        line = raw.count(b"\n", 0, offset) + 1
        raise DataError(
            f"{path} is not {name} text: byte {offset} (line {line}, 0x{raw[offset]:02x}) cannot "
            "be decoded; save the file as UTF-8, or as UTF-16 with a byte order mark"
        ) from error
    if "\0" in text[:4096]:
        raise DataError(
            f"{path} holds zero bytes: it is binary, or UTF-16 without a byte order mark; "
            "save it as UTF-8 text"
        )
    if not text.strip():
        raise DataError(f"{path} holds nothing but white space; it needs labelled pairs")
    return text


# ---------------------------------------------------------------- separated values


def _read_csv(path: Path) -> Table:
    """Read quoted values (RFC 4180); the header alone decides between comma, semicolon and tab."""
    text = read_text(path)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    unquoted = re.sub(r'"[^"]*"', "", header)
    # The comma wins a tie, so that a file of one column is reported as it was written.
    delimiter = max(",;\t", key=unquoted.count)
    if delimiter == "\t":
        return _tab_separated(path, text)
    return _table_of_rows(path, *_quoted_rows(path, text, delimiter))


def _read_tsv(path: Path) -> Table:
    return _tab_separated(path, read_text(path))


def _tab_separated(path: Path, text: str) -> Table:
    """Read tab-separated values, raw unless the file as a whole is quoted.

    Most such files are raw: a quote is a character like any other, and a reader that honours
    quotes merges every row between two of them. A few writers (pandas, spreadsheets) quote the
    fields that need it. The file is taken as quoted only if each of its quotes obeys the rules of
    quoting, and if quoting is not what makes rows disappear: when every line already has the fields
    of the header and quotes would merge some of them, the lines are the rows.
    """
    raw, numbers = _raw_rows(text)
    if '"' in text and _is_quoted(text):
        rows, starts = _quoted_rows(path, text, "\t")
        regular = all(len(row) == len(raw[0]) for row in raw)
        if len(rows) == len(raw) or not regular:
            return _table_of_rows(path, rows, starts)
    return _table_of_rows(path, raw, numbers)


def _raw_rows(text: str) -> tuple[list[list[str]], list[int]]:
    """Split at tabs and line ends only, and skip blank lines."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    # Not splitlines(): it also splits at characters that occur inside texts, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line:
            rows.append(line.split("\t"))
            numbers.append(number)
    return rows, numbers


_QUOTED_FILE = re.compile(r'(?:(?:"(?:[^"]|"")*+"|[^"\t\r\n]++)?+(?:\t|\r?\n|\Z))*+')


def _is_quoted(text: str) -> bool:
    """Whether every quote opens a whole field, closes it or is doubled inside one."""
    return _QUOTED_FILE.fullmatch(text) is not None


def _quoted_rows(path: Path, text: str, delimiter: str) -> tuple[list[list[str]], list[int]]:
    """Parse with quoting; the numbers are the lines on which the rows begin."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {start}: the quotes of the row that begins here are wrong ({error}); "
            "a field with a quote, a delimiter or a line end must stand in quotes, and quotes "
            'inside it must be doubled: "say ""hi"""'
        ) from error
    return rows, numbers


def _table_of_rows(path: Path, rows: list[list[str]], numbers: list[int]) -> Table:
    names = [name.strip() for name in rows[0]]
    for row, number in zip(rows, numbers, strict=True):
        if len(row) != len(names):
            raise DataError(
                f"{path}, line {number}: expected {len(names)} fields as in the header, got "
                f"{len(row)}: {shorten('|'.join(row))}; every row needs all fields, and a text "
                "that holds the delimiter needs quotes around it (CSV) or must lose it (TSV)"
            )
    body = rows[1:]
    return Table(names, lambda index: [row[index] for row in body], numbers[1:], "line")


# ---------------------------------------------------------------- JSON and Parquet


def _read_json(path: Path) -> Table:
    """Read one object a line, or one list of objects."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is not valid JSON: {error}; repair or export it") from error
        numbers: Sequence[int] = range(1, len(records) + 1)
        unit = "record"
    else:
        records, numbers, unit = *_json_lines(path, text), "line"
    names: dict[str, None] = {}
    for record, number in zip(records, numbers, strict=True):
        if not isinstance(record, dict):
            raise DataError(
                f"{path}, {unit} {number}: expected an object such as "
                '{"question1": "…", "question2": "…", "label": 1}, '
                f"got {shorten(json.dumps(record, ensure_ascii=False))}"
            )
        names.update(dict.fromkeys(record))
    order = list(names)
    return Table(
        order, lambda index: [record.get(order[index]) for record in records], numbers, unit
    )


def _json_lines(path: Path, text: str) -> tuple[list[Any], list[int]]:
    records: list[Any] = []
    numbers: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: not valid JSON ({error}): {shorten(line)}; expected one "
                "object a line, or a list of objects"
            ) from error
        numbers.append(number)
    return records, numbers


def _read_parquet(path: Path) -> Table:
    """Read the schema now and only those columns that are asked for."""
    import pyarrow
    import pyarrow.parquet

    def column(index: int) -> Sequence[Any]:
        # Any failure inside the reader means the same thing here: the file is damaged.
        try:
            table = pyarrow.parquet.ParquetFile(path).read(columns=[names[index]])
            values: list[Any] = table.column(0).to_pylist()
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _damaged(path, error) from error
        return values

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names: list[str] = file.schema_arrow.names
            rows: int = file.metadata.num_rows
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    return Table(names, column, range(1, rows + 1), "row")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} is not a readable Parquet file: {shorten(str(error))}; write it again, or use "
        f"another format: {FORMATS}"
    )


READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".parquet": _read_parquet,
}


# ---------------------------------------------------------------- Hugging Face data sets

_DATASET_ID = re.compile(
    r"(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?", re.ASCII
)


def is_dataset_id(source: str) -> bool:
    """Whether a string reads as `id`, `owner/id`, `id@configuration`, `id:split` or all of them."""
    return _DATASET_ID.fullmatch(source) is not None


def load_hub_dataset(source: str) -> Table:
    """Load a data set by its hub id; the split is `train`, or the only one, unless it is named."""
    import datasets

    match = _DATASET_ID.fullmatch(source)
    if match is None:
        raise DataError(f"{source!r} is not a dataset id; write id, id@configuration or id:split")
    try:
        loaded = datasets.load_dataset(match["id"], match["config"])
    except Exception as error:
        # The hub client raises some twenty classes of its own and of the libraries below it.
        reason = f"{type(error).__name__}: {shorten(str(error), 200)}"
        raise DataError(
            f"{source!r} is no file here and cannot be loaded as a Hugging Face dataset "
            f"({reason}); check the id and the network, or name a file: {FORMATS}"
        ) from error
    only = next(iter(loaded)) if len(loaded) == 1 else "train"
    split = match["split"] or only
    if split not in loaded:
        raise DataError(
            f"the dataset {match['id']} has no split {split!r}, only {', '.join(loaded)}; name one "
            f"as {match['id']}:{next(iter(loaded))}"
        )
    return table_of_dataset(loaded[split])


def table_of_dataset(dataset: Any) -> Table:
    """View a `datasets.Dataset` as a table, with the names of its class labels."""
    names: list[str] = list(dataset.column_names)
    classes = {name: getattr(dataset.features[name], "names", None) for name in names}

    def column(index: int) -> Sequence[Any]:
        values: Sequence[Any] = dataset[names[index]][:]
        return values

    return Table(
        names,
        column,
        range(1, len(dataset) + 1),
        "row",
        {name: list(of) for name, of in classes.items() if of},
    )


def shorten(text: str, limit: int = 80) -> str:
    """Bring a text to one line of at most `limit` characters, for messages."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
