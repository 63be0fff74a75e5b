"""A tiny sentence encoder with random weights, and pairs that its vocabulary covers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from objectives import FineTune
from objectives.pairs import Pairs, write_jsonl

WORDS = [f"{first}{last}" for first in "bdfgklmnprst" for last in ("ala", "eno", "iru", "ose")]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Train on one thread: a tiny model gains nothing from more, and they wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a BERT with 3 layers and 32 dimensions, mean pooling and Normalize."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    directory = tmp_path_factory.mktemp("tiny")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=32)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    bert = directory / "bert"
    BertModel(config).save_pretrained(bert)
    tokenizer.save_pretrained(bert)
    transformer = Transformer(str(bert))
    model = SentenceTransformer(modules=[transformer, Pooling(32), Normalize()], device="cpu")
    path = directory / "encoder"
    model.save_pretrained(str(path), create_model_card=False)
    return path


def make_pairs(count: int, seed: int = 0) -> Pairs:
    """Return pairs of which the duplicates share most words and the others few."""
    source = random.Random(seed)
    first, second, labels = [], [], []
    for number in range(count):
        words = source.sample(WORDS, 6)
        label = int(number % 5 < 2)
        kept = source.sample(words, 4 if label else 3)
        other = kept + source.sample(WORDS, 2 if label else source.randint(2, 6))
        source.shuffle(other)
        first.append(" ".join(words))
        second.append(" ".join(other))
        labels.append(label)
    return Pairs(tuple(first), tuple(second), tuple(labels))


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a JSON lines file of 400 labelled pairs."""
    path = tmp_path_factory.mktemp("pairs") / "words.jsonl"
    write_jsonl(make_pairs(400), path)
    return path


@pytest.fixture(scope="session")
def prepared(
    tiny_model: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FineTune, Path]:
    """Return the objective on the tiny model, prepared, and the study's directory."""
    directory = tmp_path_factory.mktemp("study")
    space: dict[str, Any] = {
        "num_samples": [64, 128],
        "head_num_samples": [64, 128],
        "dimension": [8, 32],
        "epochs": [1, 2],
        "head_epochs": [5, 8],
    }
    objective = FineTune(data=str(pairs_file), models=[str(tiny_model)], space=space)
    objective, _ = objective.prepare(directory, seed=0)
    return objective, directory
