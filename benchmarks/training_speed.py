"""How much faster a trial trains than the stock Trainer, side by side in one run.

    python benchmarks/training_speed.py [--pairs 320] [--runs 3] [--threads 1]

Both fine-tune all-MiniLM-L6-v2 (from the demo extra) on the same demo pairs, with
OnlineContrastiveLoss, batches of 32, one epoch: "stock" is SentenceTransformerTrainer as its
documentation shows it, "hpo" is what a trial runs. They take turns; pairs per second and the median
of the pairwise ratios are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.losses import OnlineContrastiveLoss
from sentence_transformers.sentence_transformer.training_args import (
    SentenceTransformerTrainingArguments,
)

from objectives.demo import demo_pairs
from objectives.encoders import has_bf16, load_encoder
from objectives.models import parse_model
from objectives.pairs import Pairs
from objectives.training import Run, train
from objectives.trials import TextInputs

MODEL = parse_model("all-MiniLM-L6-v2")


def stock(model: SentenceTransformer, pairs: Pairs, directory: Path) -> None:
    """Train as the documentation of sentence-transformers shows it."""
    columns = {"sentence1": pairs.first, "sentence2": pairs.second, "label": pairs.labels}
    SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(directory),
            num_train_epochs=1,
            per_device_train_batch_size=32,
            learning_rate=1e-4,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({name: list(each) for name, each in columns.items()}),
        loss=OnlineContrastiveLoss(model),
    ).train()


def ours(model: SentenceTransformer, pairs: Pairs, directory: Path) -> None:
    """Train as a trial does, without probes."""
    run = Run(
        loss="OnlineContrastive",
        learning_rate=1e-4,
        epochs=1,
        batch_size=32,
        warmup=0.1,
        seed=0,
        bf16=has_bf16(model.device.type),
        directory=directory,
        probes=(),
    )
    train(model, TextInputs(model, pairs), run, lambda: 0.0, lambda percent, value: None, False)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=320)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = demo_pairs().take(range(options.pairs))
    speeds: dict[str, list[float]] = {"stock": [], "hpo": []}
    for turn in range(options.runs + 1):
        for name, work in (("stock", stock), ("hpo", ours)):
            model = load_encoder(MODEL, device)
            with tempfile.TemporaryDirectory() as directory:
                began = time.perf_counter()
                work(model, pairs, Path(directory))
                seconds = time.perf_counter() - began
            if turn:  # the first turn warms up
                speeds[name].append(options.pairs / seconds)
    for name, found in speeds.items():
        print(f"{name:6} {statistics.median(found):7.1f} pairs/s  {sorted(map(round, found))}")
    ratios = [b / a for a, b in zip(speeds["stock"], speeds["hpo"], strict=True)]
    print(f"ratio  {statistics.median(ratios):.2f}  ({device}, {options.threads} thread(s))")


if __name__ == "__main__":
    main()
