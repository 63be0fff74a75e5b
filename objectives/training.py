"""One training run through sentence-transformers' Trainer: quiet, resumable, and measured.

What is added to the stock Trainer: both texts of a pair go through the model in one forward pass
(half the calls, and the padding of one bucket), a loss that is not a number ends the run at once
with the step and the learning rate, and a callback stops at given steps for a probe and a
checkpoint. Tuning a whole encoder and training a linear head on cached embeddings are the same run
on other inputs.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.training_args import (
    SentenceTransformerTrainingArguments,
)
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from objectives.batching import LengthBuckets

WEIGHTS = "weights.pt"
REPORTS = "reports.json"
PREFIX = "pair_"


class Inputs(Protocol):
    """What a run trains on: rows for the Trainer, and how to make a batch of them."""

    @property
    def rows(self) -> Mapping[str, Sequence[Any]]:
        """Columns first, second and label, one entry a pair."""

    @property
    def lengths(self) -> Sequence[int]:
        """The length of each pair, to batch like with like."""

    def features(self, first: list[Any], second: list[Any]) -> Mapping[str, Any]:
        """Return the model's inputs for the first texts of a batch, followed by the second ones."""


@dataclass(frozen=True)
class Run:
    """How to train.

    Attributes:
        loss: Name of the loss, as in ``objectives.space.LOSSES``.
        learning_rate: The highest of the run.
        epochs: Passes over the rows.
        batch_size: Pairs a step.
        warmup: Share of the steps over which the learning rate rises; then it falls to zero.
        seed: Fixes the order of the rows and the dropout.
        bf16: Compute in bfloat16; weights stay in float32.
        directory: Where checkpoints go.
        probes: At which percent of the run to stop for a probe, rising, all below 100.
        commit: Called when a checkpoint is complete.
    """

    loss: str
    learning_rate: float
    epochs: int
    batch_size: int
    warmup: float
    seed: int
    bf16: bool
    directory: Path
    probes: tuple[int, ...]
    commit: Callable[[], None] = lambda: None


class PairLoss(nn.Module):
    """A loss of sentence-transformers, fed from one forward pass over both texts of every pair.

    Args:
        model: The model to train.
        name: Name of the loss without "Loss".
    """

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        super().__init__()
        self.model = model
        self.inner = getattr(losses, f"{name}Loss")(model)

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch.

        Args:
            features: One set of inputs, of the first texts followed by the second ones.
            labels: Shape (pairs,), 1 or 0.
        """
        embeddings = self.model(features[0])["sentence_embedding"]
        first, second = embeddings.chunk(2)
        loss: torch.Tensor = self.inner.compute_loss_from_embeddings([first, second], labels)
        # Comparing with NaN selects no hard pair, so OnlineContrastive answers 0 to a broken model.
        poisoned: torch.Tensor = loss + 0 * embeddings.detach().sum()
        return poisoned


class PairCollator:
    """Make a batch of rows: the inputs of all first and all second texts together, and the
    labels."""

    valid_label_columns = ("label",)

    def __init__(self, inputs: Inputs) -> None:
        self.inputs = inputs

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch under names in which the Trainer finds one set of features."""
        features = self.inputs.features(
            [row["first"] for row in rows], [row["second"] for row in rows]
        )
        batch = {PREFIX + name: value for name, value in features.items()}
        batch["label"] = torch.tensor([row["label"] for row in rows])
        return batch


class Trainer(SentenceTransformerTrainer):
    """The Trainer without a model card, with light checkpoints, and strict about its loss."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: it analyses the data set and asks the hub, for a card that nobody reads."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Take one step.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} of "
                f"{self.state.max_steps}, learning rate {self._get_learning_rate():.3g}: training "
                "has diverged; a lower learning rate may help"
            )
        return loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None  # the Trainer always names it
        # The weights are all that cannot be made again; the optimizer and the rest are saved
        # beside.
        target = Path(output_dir)
        target.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), target / WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        weights = torch.load(
            Path(checkpoint_path) / WEIGHTS, map_location=self.model.device, weights_only=True
        )
        self.model.load_state_dict(weights)


class _Probes(TrainerCallback):
    """Stops at the given steps: probe, report, checkpoint."""

    def __init__(
        self, run: Run, steps: int, probe: Callable[[], float], report: Callable[[int, float], None]
    ) -> None:
        self.run = run
        self.at = {max(1, round(steps * percent / 100)): percent for percent in run.probes}
        self.probe = probe
        self.report = report
        self.reports: dict[int, float] = {}
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        percent = self.at.get(state.global_step)
        if percent is None or state.global_step == state.max_steps:
            return control
        started = time.perf_counter()
        value = self.probe()
        self.seconds += time.perf_counter() - started
        self.reports[percent] = value
        self.report(percent, value)  # may end the run: then there is nothing to save
        control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A checkpoint gets its final name when it is complete; only then do older ones go.
        name = f"checkpoint-{state.global_step}"
        complete = Path(args.output_dir) / name
        (complete / REPORTS).write_text(json.dumps(self.reports), encoding="utf-8")
        os.replace(complete, self.run.directory / name)
        for step, path in _checkpoints(self.run.directory):
            if step != state.global_step:
                shutil.rmtree(path)
        self.run.commit()


@dataclass(frozen=True)
class Trained:
    """What a run took.

    Attributes:
        steps: Optimiser steps of the whole run, those before a resumption included.
        train_seconds: Time of this attempt's steps, without the probes.
        probe_seconds: Time of this attempt's probes.
        pairs_per_second: Pairs trained on by this attempt, by ``train_seconds``.
    """

    steps: int
    train_seconds: float
    probe_seconds: float
    pairs_per_second: float


def train(
    model: SentenceTransformer,
    inputs: Inputs,
    run: Run,
    probe: Callable[[], float],
    report: Callable[[int, float], None],
    resume: bool,
) -> Trained:
    """Train ``model`` in place.

    Args:
        model: What to train: its parameters that require a gradient.
        inputs: What to train it on.
        run: How.
        probe: Scores the model as it is; called at the percents of ``run.probes``.
        report: Takes a percent and a score; what it raises ends the run.
        resume: Continue from the newest checkpoint in ``run.directory``, if there is one.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    rows = len(inputs.rows["label"])
    steps = run.epochs * -(-rows // run.batch_size)
    checkpoints = _checkpoints(run.directory) if resume else []
    probes = _Probes(run, steps, probe, report)
    done = 0
    if checkpoints:
        done, newest = checkpoints[-1]
        print(f"resumed from step {done} of {steps}", flush=True)
        stored = json.loads((newest / REPORTS).read_text(encoding="utf-8"))
        probes.reports = {int(percent): value for percent, value in stored.items()}
        for percent, value in probes.reports.items():
            report(percent, value)
    writing = run.directory / "writing"
    shutil.rmtree(writing, ignore_errors=True)
    started = time.perf_counter()
    with _quiet():
        trainer = Trainer(
            model=model,
            args=_arguments(run, steps, model.device.type, writing, inputs.lengths),
            train_dataset=Dataset.from_dict(dict(inputs.rows)),
            loss=PairLoss(model, run.loss),
            data_collator=PairCollator(inputs),  # type: ignore[arg-type]
            callbacks=[probes],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(newest) if checkpoints else None)
    # The Trainer has wrapped the model's forward in autocast; what follows decides that for itself.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    seconds = time.perf_counter() - started - probes.seconds
    shutil.rmtree(writing, ignore_errors=True)
    pairs = rows * run.epochs * (steps - done) / steps
    return Trained(steps, seconds, probes.seconds, pairs / seconds)


def remove_checkpoints(directory: Path) -> None:
    """Remove what :func:`train` left in ``directory`` for a later attempt."""
    for _, path in _checkpoints(directory):
        shutil.rmtree(path)


def _arguments(
    run: Run, steps: int, device: str, output: Path, lengths: Sequence[int]
) -> SentenceTransformerTrainingArguments:
    return SentenceTransformerTrainingArguments(
        output_dir=str(output),
        num_train_epochs=run.epochs,
        per_device_train_batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        warmup_steps=min(round(run.warmup * steps), steps - 1),
        bf16=run.bf16,
        use_cpu=device == "cpu",
        optim="adamw_torch_fused",
        seed=run.seed,
        data_seed=run.seed,
        batch_sampler=functools.partial(LengthBuckets, lengths=lengths),
        dataloader_pin_memory=device == "cuda",
        logging_strategy="no",
        logging_nan_inf_filter=False,  # it hides the first NaN
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Return the complete checkpoints by step, the newest last."""
    found = [
        (path.name.removeprefix("checkpoint-"), path) for path in directory.glob("checkpoint-*")
    ]
    return sorted((int(step), path) for step, path in found if step.isdecimal())


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Raised by torch about the Trainer's own use of it, at every start.
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        yield
