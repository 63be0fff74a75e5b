"""How often the 95 % intervals hold the true value, on simulated scores whose truth is known.

    python benchmarks/interval_coverage.py [--pairs 300 1500] [--groups none quora heavy]
        [--draws 1000] [--resamples 400]

Scores are binormal: standard normal, and higher by a constant for positives, so every measure's
true value is known. With groups, half of a score's variance and 0.3 of the labels' is common to the
pairs of a group; group sizes follow those of the Quora pairs (77 % of the pairs alone, the largest
group a tenth of the split), or a much heavier tail (P(size = s) ~ s**-2.3).

For ROC AUC the chosen interval stands beside others from the same draws: percentiles and BCa of the
same resamples, and DeLong's variance over groups on the logit scale without a t-quantile. Then the
chosen interval's coverage of the other measures, and of the paired difference of two models' ROC
AUC whose scores correlate at 0.8. With 1,000 draws a figure has a standard error of 0.7.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from objectives.intervals import Evaluation, paired_differences

Floats = NDArray[np.float64]

QUORA = {1: 21391, 2: 1361, 3: 297, 4: 97, 5: 46, 6: 27, 7: 29, 8: 13, 10: 14, 12: 15, 15: 11}
QUORA |= {20: 11, 30: 8, 40: 5, 55: 2, 80: 3, 94: 1, 108: 1, 126: 1}
"""Groups by size in 27,860 Quora pairs, the rarer sizes put together."""

WITHIN = 0.5
LABELS_WITHIN = 0.3
BETTER = 0.02
"""By how much the first model's ROC AUC exceeds the second's in the paired difference."""

SHARED = 0.8


@dataclass(frozen=True)
class Drawn:
    """The pairs of one split, and the scores of two models without what their labels add."""

    labels: NDArray[np.int64]
    noise: tuple[Floats, Floats]
    clusters: NDArray[np.int64]


def draw(random: np.random.Generator, pairs: int, positives: float, kind: str) -> Drawn:
    """Draw a split of ``pairs`` pairs."""
    clusters = groups_of(random, pairs, kind)
    groups = int(clusters[-1]) + 1
    if kind == "none":
        rate = np.full(groups, positives)
    else:
        concentration = (1 - LABELS_WITHIN) / LABELS_WITHIN
        rate = random.beta(positives * concentration, (1 - positives) * concentration, groups)
    labels = (random.random(pairs) < rate[clusters]).astype(np.int64)

    def noise() -> Floats:
        alone = random.standard_normal(pairs)
        if kind == "none":
            return alone
        return WITHIN**0.5 * random.standard_normal(groups)[clusters] + (1 - WITHIN) ** 0.5 * alone

    common, one, other = noise(), noise(), noise()
    mixed = [SHARED**0.5 * common + (1 - SHARED) ** 0.5 * own for own in (one, other)]
    return Drawn(labels, (mixed[0], mixed[1]), clusters)


def groups_of(random: np.random.Generator, pairs: int, kind: str) -> NDArray[np.int64]:
    """Return the group of each pair, numbered in ascending order."""
    if kind == "none":
        return np.arange(pairs)
    sizes = np.array(list(QUORA)) if kind == "quora" else np.arange(1, pairs // 10 + 1)
    shares = np.array(list(QUORA.values())) if kind == "quora" else sizes**-2.3
    kept = sizes <= pairs / 10
    chances = shares[kept] / shares[kept].sum()
    drawn = random.choice(sizes[kept], size=pairs, p=chances)
    return np.repeat(np.arange(pairs), drawn)[:pairs]


def truth(auc: float, positives: float, threshold: float) -> dict[str, float]:
    """Return the true value of every measure."""
    shift = 2**0.5 * norm.ppf(auc)
    scores = np.linspace(-9, 9 + shift, 200_001)
    tp, fp = positives * norm.sf(scores - shift), (1 - positives) * norm.sf(scores)
    precision = tp / (tp + fp)
    ap = -np.sum(np.diff(tp) * (precision[1:] + precision[:-1]) / 2) / positives
    recall, wrong = norm.sf(threshold - shift), norm.sf(threshold)
    hit, false = positives * recall, (1 - positives) * wrong
    miss, right = positives - hit, 1 - positives - false
    called = hit + false
    root = (called * (1 - called) * positives * (1 - positives)) ** 0.5
    return {
        "roc_auc": auc,
        "average_precision": ap,
        "accuracy": hit + right,
        "balanced_accuracy": (recall + 1 - wrong) / 2,
        "f1": 2 * hit / (2 * hit + false + miss),
        "precision": hit / called,
        "recall": recall,
        "mcc": (hit * right - false * miss) / root,
    }


def rivals(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Return other intervals of ROC AUC from the same resamples."""
    value = evaluation._values["roc_auc"]
    found = evaluation._resampled[:, 0]
    influence = evaluation._influence[:, 0]
    ends = np.array([-1, 1]) * norm.ppf(0.975)
    below = np.clip(np.mean(found < value), 1 / found.size, 1 - 1 / found.size)
    variance = max((influence**2).sum(), 1e-99)
    bias, skew = norm.ppf(below), (influence**3).sum() / (6 * variance**1.5)
    bca = norm.cdf(bias + (bias + ends) / (1 - skew * (bias + ends)))
    error = variance**0.5 / max(value * (1 - value), 1e-9)
    delong = 1 / (1 + np.exp(-(np.log(value / max(1 - value, 1e-9)) + ends * error)))
    low, high = np.quantile(found, [0.025, 0.975])
    return {
        "percentile": (low, high),
        "bca": tuple(np.quantile(found, bca)),
        "delong": tuple(delong),
    }


def coverage(
    pairs: int, kind: str, auc: float, positives: float, draws: int, resamples: int
) -> dict[str, float]:
    """Return the percentage of draws whose interval holds the truth, by method or measure."""
    random = np.random.default_rng([pairs, len(kind), int(1000 * auc), int(100 * positives)])
    shift, lower = (2**0.5 * norm.ppf(value) for value in (auc, auc - BETTER))
    threshold = shift / 2 + 0.2
    true = truth(auc, positives, threshold)
    hits: dict[str, list[bool]] = defaultdict(list)
    for seed in range(draws):
        drawn = draw(random, pairs, positives, kind)
        one, other = (
            Evaluation(
                drawn.labels,
                noise + moved * drawn.labels,
                drawn.clusters,
                threshold,
                seed=seed,
                resamples=resamples,
            )
            for noise, moved in zip(drawn.noise, (shift, lower), strict=True)
        )
        for name, (low, high) in rivals(one).items():
            hits[name].append(low <= auc <= high)
        for name, (_, interval) in one.measures().items():
            hits[name].append(interval.low <= true[name] <= interval.high)
        _, interval = paired_differences(one, other)["roc_auc"]
        hits["difference"].append(interval.low <= BETTER <= interval.high)
    return {name: 100 * float(np.mean(found)) for name, found in hits.items()}


def main() -> None:
    """Print one line a scenario."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[300, 1500])
    parser.add_argument("--groups", nargs="+", default=["none", "quora", "heavy"])
    parser.add_argument("--auc", type=float, nargs="+", default=[0.75, 0.9, 0.97])
    parser.add_argument("--positives", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=400)
    given = parser.parse_args()
    heading = False
    for pairs in given.pairs:
        for kind in given.groups:
            for auc in given.auc:
                for positives in given.positives:
                    found = coverage(pairs, kind, auc, positives, given.draws, given.resamples)
                    if not heading:
                        print("| pairs | groups | AUC | positives |", " | ".join(found), "|")
                        print("|---" * (4 + len(found)) + "|")
                        heading = True
                    figures = " | ".join(f"{value:.1f}" for value in found.values())
                    print(f"| {pairs} | {kind} | {auc} | {positives} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
