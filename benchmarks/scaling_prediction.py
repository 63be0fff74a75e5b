"""Does the scaling law, fitted to runs with few labelled pairs, foresee what more pairs bring?

    python benchmarks/scaling_prediction.py PAIRS [--sizes 125 250 500 1000] [--held-out 4000]
        [--seeds 3] [--model all-MiniLM-L6-v2] [--out DIRECTORY] [--study-seed 0]

A grid over the number of pairs with all else fixed, whose every level is a finalist: so each number
of pairs is run with new seeds. The law is fitted to the runs up to the largest of ``--sizes`` and
asked for ``--held-out``; then the runs there are looked at. The error is 1 - accuracy on the
validation pairs, and 1 - ROC AUC.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import hpo
from hpo.report.scaling import Point, Refusal, fit_scaling
from objectives import FineTune

FIXED = {
    "tuning": "full",
    "learning_rate": 1e-4,
    "dimension": 384,
    "loss": "OnlineContrastive",
    "epochs": 1,
    "batch_size": 32,
    "warmup": 0.1,
    "dropout": 0.0,
}


def main() -> None:
    """Run the grid, fit, and print how the runs with more pairs lie in the band."""
    given = _arguments()
    sizes = [*given.sizes, given.held_out]
    space = {**FIXED, "num_samples": sizes}
    study = hpo.optimize(
        FineTune(data=given.data, models=[given.model], space=space),
        study="scaling",
        storage=f"sqlite:///{given.out}/hpo.db",
        out=given.out / "runs",
        executor="local",
        design="grid",
        seed=given.study_seed,
        finalists=len(sizes),
        seeds=given.seeds,
    )
    runs: list[dict[str, Any]] = study.user_attrs["finalists"]
    for name in ("accuracy", "roc_auc"):
        points = [Point(each["metrics"]["num_samples"], 1 - each["metrics"][name]) for each in runs]
        _judge(name, points, given.held_out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="labelled pairs, as for hpo.run --data")
    parser.add_argument("--sizes", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--held-out", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, default=Path("scaling"))
    parser.add_argument("--study-seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def _judge(name: str, points: list[Point], held_out: int) -> None:
    known = [point for point in points if point.n < held_out]
    seen = sorted(point.error for point in points if point.n == held_out)
    print(f"\n1 - {name}")
    for n in sorted({point.n for point in points}):
        errors = [f"{point.error:.4f}" for point in points if point.n == n]
        print(f"  {n:>6,.0f} pairs  {'  '.join(errors)}")
    law = fit_scaling(known)
    if isinstance(law, Refusal):
        print(f"  refused: {law.reason}")
        return
    print(f"  {law.a:.4g} n^-{law.b:.3g} + {law.c:.4g}, from {len(known)} runs")
    band = law.predict(held_out)
    within = sum(band.low <= error <= band.high for error in seen)
    print(f"  foreseen at {held_out:,}: {band.error:.4f} ({band.low:.4f} to {band.high:.4f})")
    print(f"  {within} of {len(seen)} runs lie in that band")


if __name__ == "__main__":
    main()
