"""Labelled question pairs for trying the project with no download.

The pairs are made from tables of everyday questions (`demo_*.toml`, written for this project). A
model that has only learnt which words belong together does well on them but not perfectly: what
decides is often what is asked about the same things, the direction ("from A to B"), the order
("before"), a number or one object, while a good paraphrase may share few words. Those distinctions
are the same for every topic, so a model fine-tuned on some questions gets better at others.

A table holds intents by domain. An intent has
- `asks`: phrasings of one question, a line each;
- `others`: near misses, a line each: questions about the same things that want another answer. Two
  phrasings of one near miss stand on one line, separated by ` / `;
- `rows`: fillings of the slots, a line each, values separated by ` | `;
- `slots`: the names of the slots in the order of the rows, `x | y` if absent;
- `exchange`: the two slots whose values trade places to turn every ask into a question with another
  answer (a journey in the other direction, another animal), `["x", "y"]` if absent, `false` where
  that would change nothing or make no sense.
In any question `(do|can)` stands for a choice of words, and `a` becomes `an` before a vowel.

One filling of one intent is a cell: no question of a cell is asked in another. Two or three cells
of one domain are joined by pairs of questions that have nothing to do with each other, and are then
one connected component of the graph of questions, so that a split by component leaves no question
of validation in training. The same phrasing about other things may stand on both sides.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from objectives.pairs import Pairs

TABLES = ("demo_home.toml", "demo_money.toml", "demo_people.toml", "demo_study.toml")

PER_CELL = {"paraphrase": 3, "reworded": 1, "other paraphrase": 1, "exchanged": 1, "near": 4}
"""How many pairs of each kind a cell gives at most."""

DUPLICATES = ("paraphrase", "reworded", "other paraphrase")

EASY_PER_JOIN = 2
"""How many unrelated pairs hold two neighbouring cells of a component together."""

REWORDINGS = (
    ("How do I ", "How can I "),
    ("How can I ", "How could I "),
    ("How should I ", "How ought I to "),
    ("What is the way to ", "What is the best way to "),
    ("What should I do ", "What ought I to do "),
    ("Is there a way to ", "Is there any way to "),
    ("Can I ", "Could I "),
    ("May I ", "Am I allowed to "),
    ("Is it possible ", "Would it be possible "),
    ("Is it safe ", "Would it be safe "),
    ("Is it fine ", "Would it be fine "),
    ("Is it better ", "Would it be better "),
    ("Is it legal ", "Would it be legal "),
    ("Why does my ", "Why would my "),
    ("Does it make sense ", "Would it make sense "),
    ("How many minutes ", "About how many minutes "),
    ("Tips for ", "Any tips for "),
)
"""Openings of a question and the words that may replace them."""

SLOT = re.compile(r"{(\w+)}")
CHOICE = re.compile(r"\(([^)]*\|[^)]*)\)")
BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=(?!uni(?!n)|use|one|eu)[aeiou]|[AEIO][a-z])")

T = TypeVar("T")


class LabelledPair(NamedTuple):
    """Two questions, if they ask the same (1) or not (0), and a key of `PER_CELL` or "easy"."""

    first: str
    second: str
    label: int
    kind: str


@dataclass(frozen=True)
class Intent:
    """One entry of a table, parsed. `rows` hold a value for every slot."""

    domain: str
    asks: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]
    rows: tuple[dict[str, str], ...]
    exchange: tuple[str, str] | None


@dataclass(frozen=True)
class Cell:
    """The questions of one intent about one row: groups of phrasings, each with its own answer."""

    asks: tuple[str, ...]
    exchanged: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]


@cache
def demo_pairs() -> Pairs:
    """The demo data: about 10,000 labelled pairs of questions, in no particular order.

    The same on every machine and under every version of Python; takes about half a second.
    """
    pairs = labelled_pairs()
    return Pairs(
        first=tuple(pair.first for pair in pairs),
        second=tuple(pair.second for pair in pairs),
        labels=tuple(pair.label for pair in pairs),
    )


def labelled_pairs() -> list[LabelledPair]:
    """The pairs of `demo_pairs` with the kind of each."""
    intents_of: dict[str, list[Intent]] = defaultdict(list)
    for intent in read_intents():
        intents_of[intent.domain].append(intent)
    taken: set[str] = set()
    pairs: list[LabelledPair] = []
    for intents in intents_of.values():
        for component in _components(intents):
            cells = [_pairs_within(_cell(intent, row, taken)) for intent, row in component]
            pairs += chain.from_iterable(cells)
            for one, two in pairwise(cells):
                pairs += _pairs_between(one, two)
    return _shuffled(_either_way_round(pair) for pair in pairs)


def read_intents() -> list[Intent]:
    """The intents of all tables, in the order of the files.

    Raises ValueError, naming the table and the place, where rows and slots do not fit together.
    """
    folder = Path(__file__).parent
    return [
        _parse(name, domain, entry)
        for name in TABLES
        for domain, entries in tomllib.loads((folder / name).read_text("utf-8")).items()
        for entry in entries
    ]


def _parse(table: str, domain: str, entry: dict[str, Any]) -> Intent:
    slots = entry.get("slots", "x | y").split(" | ")
    rows = []
    for line in entry["rows"].splitlines():
        values = line.split(" | ")
        if len(values) != len(slots):
            raise ValueError(
                f"{table}: a row needs {len(slots)} values ({slots}), but got {line!r}"
            )
        rows.append(dict(zip(slots, values, strict=True)))
    exchange = entry.get("exchange", ["x", "y"]) or []
    used = set(SLOT.findall(entry["asks"] + entry["others"])) | set(exchange)
    if unknown := sorted(used - set(slots)):
        raise ValueError(f"{table}: {unknown} are not among the slots {slots} of {rows[0]}")
    return Intent(
        domain=domain,
        asks=tuple(entry["asks"].splitlines()),
        others=tuple(tuple(line.split(" / ")) for line in entry["others"].splitlines()),
        rows=tuple(rows),
        exchange=(exchange[0], exchange[1]) if exchange else None,
    )


def _components(intents: Sequence[Intent]) -> Iterator[list[tuple[Intent, dict[str, str]]]]:
    """Two or three intents at a time, each with one of its rows; every row of every intent once."""
    for number in range(max(len(intent.rows) for intent in intents)):
        cells = [(intent, intent.rows[number]) for intent in intents if number < len(intent.rows)]
        cells = _shuffled(cells)
        while cells:
            size = 3 if len(cells) == 3 else 2
            yield cells[:size]
            cells = cells[size:]


def _cell(intent: Intent, row: dict[str, str], taken: set[str]) -> Cell:
    """Write the questions out, but none in `taken`, the questions of earlier cells; add to it."""

    def write(templates: Iterable[str], values: dict[str, str]) -> tuple[str, ...]:
        texts = dict.fromkeys(_question(template, values) for template in templates)
        free = tuple(text for text in texts if text not in taken)
        taken.update(free)
        return free

    asks = write(intent.asks, row)
    exchanged: tuple[str, ...] = ()
    if intent.exchange is not None:
        one, two = intent.exchange
        exchanged = write(intent.asks, row | {one: row[two], two: row[one]})
    return Cell(asks, exchanged, tuple(write(line, row) for line in intent.others))


def _question(template: str, values: dict[str, str]) -> str:
    def choose(match: re.Match[str]) -> str:
        words: list[str] = match[1].split("|")
        return _shuffled(words, salt=f"{template}{values}")[0]

    text = BEFORE_VOWEL.sub(r"\1n ", CHOICE.sub(choose, template).format_map(values))
    return text[0].upper() + text[1:]


def _pairs_within(cell: Cell) -> list[LabelledPair]:
    """The pairs of one cell, each sharing a question with another pair: the cell is connected."""
    asks = _shuffled(cell.asks)[: PER_CELL["paraphrase"] + 1]
    others = _shuffled(cell.others)
    near = [text for group in others for text in group[:1]]
    texts: dict[str, Iterable[tuple[str, str]]] = {
        "paraphrase": pairwise(asks),
        "reworded": ((ask, new) for ask in asks for new in _reworded(ask)),
        "other paraphrase": (group for group in others[: PER_CELL["near"]] if len(group) == 2),
        "exchanged": zip(asks, _shuffled(cell.exchanged), strict=False),
        "near": zip(asks, near, strict=False),
    }
    return [
        LabelledPair(first, second, int(kind in DUPLICATES), kind)
        for kind, pairs in texts.items()
        for first, second in islice(pairs, PER_CELL[kind])
    ]


def _reworded(question: str) -> Iterator[str]:
    """The question with another opening, if `REWORDINGS` has one for it."""
    return islice(
        (new + question[len(old) :] for old, new in REWORDINGS if question.startswith(old)), 1
    )


def _pairs_between(one: list[LabelledPair], two: list[LabelledPair]) -> list[LabelledPair]:
    """Unrelated pairs of a question of one cell and a question of another one."""
    texts = [_shuffled({text for pair in cell for text in pair[:2]}) for cell in (one, two)]
    return [
        LabelledPair(first, second, 0, "easy")
        for first, second in islice(zip(*texts, strict=False), EASY_PER_JOIN)
    ]


def _either_way_round(pair: LabelledPair) -> LabelledPair:
    first, second = _shuffled((pair.first, pair.second), salt=f"{pair}")
    return pair._replace(first=first, second=second)


def _shuffled(items: Iterable[T], salt: str = "") -> list[T]:
    """The items ordered by a digest of their text.

    As good as random, and the same under every version of Python, which `random` does not promise.
    """
    return sorted(items, key=lambda item: blake2b(f"{salt}{item}".encode(), digest_size=8).digest())
