"""No question in two splits, nothing lost, nothing left to chance."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from objectives.pairs import DataError, Pairs
from objectives.splits import (
    MIN_HELD_OUT,
    Split,
    components,
    content_hash,
    nested_sample,
    question_key,
    split_pairs,
)

EXPECTED_SAMPLE = ("left 54", "left 16", "left 51", "left 28")
EXPECTED_TEST = "429f2634794396384823a7c07c89f05cac7312caf126c7dd2d49f426aa880275"
EXPECTED_HASH = "07710179f76dc2be5f5b3f5c794946ee2305972911f6107745370361a90e5318"


def make(rows: list[tuple[str, str, int]]) -> Pairs:
    first, second, labels = zip(*rows, strict=True)
    return Pairs(first, second, labels)


def parts(split: Split) -> tuple[Pairs, Pairs, Pairs]:
    return split.train, split.validation, split.test


def chain(length: int, start: int = 0) -> list[tuple[str, str, int]]:
    """One component: each question shared with the next pair."""
    return [(f"c{start + i}", f"c{start + i + 1}", i % 2) for i in range(length)]


def islands(count: int, positives: float = 0.4) -> list[tuple[str, str, int]]:
    return [(f"left {i}", f"right {i}", int(i < positives * count)) for i in range(count)]


# Few distinct questions in many spellings: dense graphs with hidden links between components.
QUESTION = st.builds(
    lambda number, spell: spell(f"straße \ufb01{number} ÉΣ"),
    st.integers(0, 150),
    st.sampled_from(
        [
            str,
            str.upper,
            str.lower,
            lambda t: f"  {t.replace(' ', chr(0xA0) + ' ')}\n",
            lambda t: unicodedata.normalize("NFD", t),
            lambda t: unicodedata.normalize("NFKC", t),
        ]
    ),
)
ROWS = st.lists(st.tuples(QUESTION, QUESTION, st.integers(0, 1)), min_size=40, max_size=120)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 5))
def test_no_question_in_two_splits_and_nothing_lost(
    rows: list[tuple[str, str, int]], seed: int
) -> None:
    pairs = make(rows + islands(60))
    split = split_pairs(pairs, seed)
    assert Counter(p for part in parts(split) for p in part) == Counter(pairs)

    def plain(text: str) -> str:
        return " ".join(text.lower().split())

    for fold in (plain, question_key, lambda t: unicodedata.normalize("NFKC", t).casefold()):
        seen = [{fold(text) for text in (*part.first, *part.second)} for part in parts(split)]
        assert not any(one & two for one, two in combinations(seen, 2))
    for part in parts(split):
        assert len(part) >= MIN_HELD_OUT
        assert 0 < part.positives < len(part)


@given(st.text(max_size=12), st.text(max_size=12))
def test_equal_after_lower_casing_and_folding_white_space_means_the_same_key(
    one: str, two: str
) -> None:
    for a, b in ((one, two), (one, one.lower()), (one, f"\t{one} "), (one, " ".join(one.split()))):
        if " ".join(a.lower().split()) == " ".join(b.lower().split()):
            assert question_key(a) == question_key(b)


def test_different_questions_have_different_keys() -> None:
    assert question_key("What is C?") != question_key("What is C++?")
    assert question_key("résumé") != question_key("resume")


def test_components_join_through_spelling_and_chains() -> None:
    pairs = make([("A", "b", 0), ("c", "d", 1), ("B ", "e", 0), ("x", "x", 1), ("D", "E", 1)])
    assert components(pairs) == [0, 0, 0, 1, 0]
    assert components(make([("a", "b", 0), ("c", "d", 0)])) == [0, 1]


@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (0.5, 0.25, 0.25), (0.8, 0.15, 0.05)])
@pytest.mark.parametrize("giant", [0, 300])
def test_fractions_and_balance_are_met(fractions: tuple[float, float, float], giant: int) -> None:
    rng = random.Random(0)
    rows = islands(700) + (chain(giant) if giant else [])
    for start in range(10_000, 12_000, 100):
        rows += chain(rng.randint(2, 8), start)
    pairs = make(rows)
    split = split_pairs(pairs, fractions=fractions)
    balance = pairs.positives / len(pairs)
    for part, share in zip(parts(split), fractions, strict=True):
        assert abs(len(part) - share * len(pairs)) <= 2
        assert abs(part.positives / len(part) - balance) < 0.02
    assert split.notes == ()


def test_large_components_go_to_train_while_they_fit() -> None:
    # The chain of 25 would all but fill validation: one topic is no measure.
    split = split_pairs(make(chain(100) + chain(25, 1000) + islands(75)))
    assert sum(text.startswith("c") for text in split.train.first) == 125
    assert (len(split.validation), len(split.test)) == (30, 30)


def test_a_giant_leaves_less_to_the_others_and_the_notes_say_so() -> None:
    split = split_pairs(make(chain(900) + islands(100)))
    assert (len(split.validation), len(split.test)) == (50, 50)
    assert len(split.notes) == 1
    assert "90% of the pairs" in split.notes[0]


@pytest.mark.parametrize(
    "rows",
    [
        chain(200),
        chain(200) + islands(4),
        chain(200) + islands(40, positives=0),
        islands(100, positives=0),
        islands(6),
    ],
)
def test_an_impossible_split_is_an_error(rows: list[tuple[str, str, int]]) -> None:
    with pytest.raises(DataError, match=r"cannot be split: .* needs 5 and both labels"):
        split_pairs(make(rows))


def test_no_pairs_cannot_be_split() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split_pairs(Pairs((), (), ()))


@pytest.mark.parametrize("fractions", [(0.7, 0.3, 0.0), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_bad_fractions_are_named(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="positive numbers of sum 1"):
        split_pairs(make(islands(100)), fractions=fractions)


@settings(deadline=None, max_examples=30)
@given(ROWS, st.randoms(use_true_random=False))
def test_row_order_changes_nothing(rows: list[tuple[str, str, int]], rng: random.Random) -> None:
    rows = rows + islands(60)
    shuffled = rng.sample(rows, len(rows))
    assert split_pairs(make(rows)) == split_pairs(make(shuffled))
    assert content_hash(make(rows)) == content_hash(make(shuffled))
    assert nested_sample(make(rows), 30, 1) == nested_sample(make(shuffled), 30, 1)


def test_the_seed_matters_and_nothing_else_does() -> None:
    pairs = make(islands(300))
    assert split_pairs(pairs, 1) == split_pairs(pairs, 1)
    assert set(split_pairs(pairs, 1).test) != set(split_pairs(pairs, 2).test)
    assert nested_sample(pairs, 50, 1) != nested_sample(pairs, 50, 2)


def test_the_draw_is_the_same_on_every_machine() -> None:
    # A literal: a study resumed elsewhere must find the split and the samples it began with.
    pairs = make(islands(100))
    assert nested_sample(pairs, 4, 0).first == EXPECTED_SAMPLE
    assert content_hash(split_pairs(pairs, 0).test) == EXPECTED_TEST
    assert content_hash(pairs) == EXPECTED_HASH


@given(
    st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4), st.integers(0, 1)), min_size=2),
    st.data(),
)
def test_samples_are_nested_and_balanced(
    rows: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    pairs = make(rows)
    large = data.draw(st.integers(1, len(pairs)))
    small = data.draw(st.integers(1, large))
    sample = nested_sample(pairs, large, 3)
    assert nested_sample(pairs, small, 3) == sample.take(range(small))
    assert len(sample) == large
    assert not Counter(sample) - Counter(pairs)
    assert abs(sample.positives - large * pairs.positives / len(pairs)) <= 1


@pytest.mark.parametrize("n", [0, -3, 101])
def test_a_sample_beyond_the_data_names_both_numbers(n: int) -> None:
    with pytest.raises(ValueError, match=rf"{n} pairs .* there are 100"):
        nested_sample(make(islands(100)), n, 0)


@given(ROWS, st.integers(0, 39))
def test_any_change_changes_the_hash(rows: list[tuple[str, str, int]], at: int) -> None:
    first, second, label = rows[at]
    for changed in ((first + "x", second, label), (first, second, 1 - label)):
        assert content_hash(make([*rows[:at], changed, *rows[at + 1 :]])) != content_hash(
            make(rows)
        )
    assume(first != second)
    swapped = make([*rows[:at], (second, first, label), *rows[at + 1 :]])
    assert (content_hash(swapped) == content_hash(make(rows))) == (
        Counter(swapped) == Counter(make(rows))
    )
