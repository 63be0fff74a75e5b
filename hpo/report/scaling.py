"""Error against the number of labelled pairs: a law, its band, and how many more pairs are needed.

The law is error(n) = a n**-b + c with a > 0, b > 0 and 0 <= c below every measured error. It is
fitted by least squares: for a given b the best a and c have a closed form, bounds included, so only
b is searched, over a grid that is refined around its best place. That finds the global optimum, of
one curve or of a thousand resampled ones alike, with NumPy alone.

**What the points must be.** One kind of run per model and figure: either the runs of several seeds
with settings that were fixed beforehand, or at each n the run that validation chose out of *equally
many* (the best of fifty looks better than the best of five, and that would read as a gain from
data). All on the same split, their samples nested. A standard error is how much such a run varies
when it is repeated with another seed and another sample of n pairs; the error that all share
because they are measured on the same split is not part of it. Without standard errors the scatter
around the curve takes their place, at the price of a wider band.

**The band** is for the error of one new run, its noise included. It comes from a parametric
bootstrap: curves are drawn around a fitted one with the points' standard errors (raised if the
points scatter more than that) and fitted again. With a handful of points residuals are too few to
draw from. A run that went wrong widens the band; it is for the caller to leave failed runs out.

A model that was trained before may fall little at first and faster later: what it knows already
counts like d more pairs, error(n) = a (n + d)**-b + c (Hernandez et al., Scaling laws for transfer,
2021). The law leaves d out, and few points do not tell it. So the curves that are drawn have
several d, each as often as its fit is likely: where the points tell that d is 0 the band is that of
the law, and else it is wide. Without that it missed on Quora pairs (benchmarks/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_SIZES = 4
"""Fewest different n: three parameters always fit three."""

MIN_RANGE = 4.0
"""Least factor between the smallest and the largest n."""

MAX_REACH = 8.0
"""How many times the largest n is the furthest that is said anything about."""

MAX_SPREAD = 16.0
"""Largest factor between the ends of a useful answer to "how many pairs?"."""

MAX_P = 0.025
"""Error counts as falling with n if a slope like the measured one is rarer than this by chance."""

REPLICATES = 1000
LEVEL = 0.95

SHIFTS = (0.0, 1 / 16, 1 / 4, 1.0, 4.0)
"""The d of the curves that are drawn, in units of the largest n; with the last they are all but
straight lines over n."""

_SLOWEST, _FASTEST = 0.02, 3.0
"""Bounds of b. Below, the law is a straight line over log n; above, a step."""


class Point(NamedTuple):
    """One run: its number of labelled pairs, its error, and how much that varies, if known."""

    n: float
    error: float
    standard_error: float | None = None


class Prediction(NamedTuple):
    """The error expected with n pairs, and where that of a single new run lies (95 %)."""

    error: float
    low: float
    high: float


class PairsNeeded(NamedTuple):
    """The number of labelled pairs, in all, at which the law reaches an error, and its interval."""

    n: float
    low: float
    high: float


@dataclass(frozen=True)
class Refusal:
    """That the data cannot say, and why."""

    reason: str


@dataclass(frozen=True, eq=False)
class ScalingLaw:
    """A fitted law error(n) = a n**-b + c.

    Attributes:
        a: The error that data can take away, at one pair.
        b: How fast it does.
        c: The floor that more data of this kind does not get below.
        points: What it was fitted to.
        noise: Standard deviation of a single new run.
        replicates: a, b and c of the resampled curves, shape (replicates, 3).
        shifts: d of the resampled curves, shape (replicates,).
        errors: The noise of a new run in each replicate, shape (replicates,).
    """

    a: float
    b: float
    c: float
    points: tuple[Point, ...]
    noise: float
    replicates: Floats
    shifts: Floats
    errors: Floats

    @property
    def furthest(self) -> float:
        """The largest n that the law is used for."""
        return MAX_REACH * max(point.n for point in self.points)

    def predict(self, n: float) -> Prediction:
        """Return the error expected with ``n`` pairs, and the band of a single new run.

        Raises:
            ValueError: ``n`` is below the fewest pairs that were tried, or beyond ``furthest``.
        """
        smallest = min(point.n for point in self.points)
        if not smallest <= n <= self.furthest:
            raise ValueError(
                f"the error is predicted for {smallest:,.0f} to {self.furthest:,.0f} pairs (up to "
                f"{MAX_REACH:g} times the most that were tried), but {n:,.0f} were asked for"
            )
        a, b, c = self.replicates.T
        low, high = np.quantile(a * (n + self.shifts) ** -b + c + self.errors, _TAILS)
        value = self.a * n**-self.b + self.c
        return Prediction(value, max(0.0, min(value, float(low))), max(value, float(high)))

    def pairs_needed(self, error: float) -> PairsNeeded | Refusal:
        """Return how many labelled pairs, in all, bring the expected error down to ``error``."""
        sizes = [point.n for point in self.points]
        smallest, largest = min(sizes), max(sizes)
        lowest, highest = np.quantile(self.replicates[:, 2], _TAILS)
        if error <= lowest:
            return Refusal(
                f"an error of {error:.4g} is below the floor of the curve, {self.c:.4g} "
                f"({lowest:.4g} to {highest:.4g}): more pairs of this kind do not lead there; try "
                "another base model or other data"
            )
        unsure = Refusal(
            f"an error of {error:.4g} may lie below what this model can reach: its floor is only "
            f"known to be between {lowest:.4g} and {highest:.4g}. Try more pairs, or more seeds"
        )
        if error <= self.c:
            return unsure
        if error >= self.a * smallest**-self.b + self.c:
            return Refusal(
                f"an error of {error:.4g} is reached with fewer than {smallest:,.0f} pairs, the "
                "fewest that were tried"
            )
        found = _inverse(np.array([[self.a, self.b, self.c]]), error)[0]
        if found > self.furthest:
            return Refusal(
                f"an error of {error:.4g} would take more than {self.furthest:,.0f} pairs, "
                f"{MAX_REACH:g} times the most that were tried ({largest:,.0f}); that far the "
                "curve is a guess. Try more pairs first"
            )
        drawn = np.maximum(_inverse(self.replicates, error) - self.shifts, 1.0)
        low, high = np.quantile(drawn, _TAILS, method="nearest")
        if not np.isfinite(high):
            return unsure
        if high > MAX_SPREAD * low:
            return Refusal(
                f"an error of {error:.4g} takes somewhere between {low:,.0f} and {high:,.0f} "
                "pairs, too wide a range to plan with. Try more pairs, or more seeds"
            )
        return PairsNeeded(float(found), float(low), float(high))


_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def fit_scaling(points: Iterable[Point], seed: int = 0) -> ScalingLaw | Refusal:
    """Fit the law to the runs of one model, or say why they do not show one.

    Args:
        points: Several may have the same n; see the top of the module for what they must be.
        seed: Of the bootstrap.

    Raises:
        ValueError: A number is not finite or out of range, or some points have a standard error
            and others have none.
    """
    given = tuple(points)
    _check(given)
    if refusal := _too_little(given):
        return refusal
    n = np.array([point.n for point in given])
    error = np.array([point.error for point in given])
    known = given[0].standard_error is not None
    deviations = np.array([point.standard_error if known else 1.0 for point in given], dtype=float)
    parameters, squares = _fit(n, error[None], deviations)
    freedom = max(len(given) - 3, 1)
    scale = math.sqrt(squares[0] / freedom)
    if known:
        scale = max(scale, 1.0)
    # A perfect fit has no scatter: rounding takes its place.
    spread = np.maximum(scale * deviations, 1e-12)
    if refusal := _no_decrease(n, error, spread, None if known else len(given) - 2):
        return refusal
    a, b, c = parameters[0]
    random = np.random.default_rng(seed)
    # A scatter that was itself estimated from few points makes the noise Student's t.
    unsure = np.ones(REPLICATES) if known else _unsure(random, freedom)
    drawn = random.standard_normal((REPLICATES, n.size)) * spread * unsure[:, None]
    replicates, shifts = _resampled(random, n, error, deviations, scale, drawn)
    noise = float(np.sqrt(np.mean(spread**2)))
    errors = noise * unsure * random.standard_normal(REPLICATES)
    return ScalingLaw(float(a), float(b), float(c), given, noise, replicates, shifts, errors)


def _resampled(
    random: np.random.Generator,
    n: Floats,
    error: Floats,
    deviations: Floats,
    scale: float,
    drawn: Floats,
) -> tuple[Floats, Floats]:
    """Fit the law, shifted, to curves with noise ``drawn``, shape (replicates, points).

    Returns:
        a, b and c of each curve, and its d: each d as often as its fit to the points is likely.
    """
    shifts = np.array(SHIFTS) * n.max()
    fits = [_fit(n + shift, error[None], deviations) for shift in shifts]
    squares = np.array([found[1][0] for found in fits])
    likely = np.exp(-(squares - squares.min()) / (2 * max(scale, 1e-12) ** 2))
    chosen = random.choice(len(shifts), len(drawn), p=likely / likely.sum())
    replicates = np.empty((len(drawn), 3))
    for place, (shift, (parameters, _)) in enumerate(zip(shifts, fits, strict=True)):
        own = chosen == place
        if own.any():
            a, b, c = parameters[0]
            curves = np.maximum(a * (n + shift) ** -b + c + drawn[own], 1e-12)
            replicates[own] = _fit(n + shift, curves, deviations)[0]
    return replicates, shifts[chosen]


def _unsure(random: np.random.Generator, freedom: int) -> Floats:
    return np.sqrt(freedom / random.chisquare(freedom, REPLICATES))


def _check(points: tuple[Point, ...]) -> None:
    for point in points:
        spread = point.standard_error
        if not (1 <= point.n < math.inf and 0 < point.error < math.inf):
            raise ValueError(
                f"a point needs n from 1 and an error above 0, but got n={point.n}, "
                f"error={point.error}"
            )
        if spread is not None and not 0 < spread < math.inf:
            raise ValueError(f"a standard error must be above 0, but got {spread}")
    if len({point.standard_error is None for point in points}) == 2:
        raise ValueError("either all points have a standard error or none has")


def _too_little(points: tuple[Point, ...]) -> Refusal | None:
    sizes = sorted({point.n for point in points})
    if len(sizes) < MIN_SIZES:
        return Refusal(
            f"there are runs with {len(sizes)} different numbers of pairs, and a curve needs "
            f"{MIN_SIZES}"
        )
    if sizes[-1] < MIN_RANGE * sizes[0]:
        return Refusal(
            f"the runs have {sizes[0]:,.0f} to {sizes[-1]:,.0f} pairs, and a curve needs a range "
            f"of {MIN_RANGE:g} times the smallest number"
        )
    return None


def _no_decrease(n: Floats, error: Floats, spread: Floats, freedom: int | None) -> Refusal | None:
    """Refuse if a line through error over log n does not fall beyond chance."""
    from scipy.stats import norm, t

    weights = spread**-2
    across = np.log(n) - np.average(np.log(n), weights=weights)
    steepness = float((weights * across**2).sum())
    slope = float((weights * across * error).sum()) / steepness
    score = slope * math.sqrt(steepness)
    chance = float(norm.cdf(score) if freedom is None else t.cdf(score, freedom))
    if chance < MAX_P:
        return None
    return Refusal(
        f"the error does not fall with the number of pairs beyond chance (from {n.min():,.0f} to "
        f"{n.max():,.0f} pairs by {-slope * math.log(n.max() / n.min()):.4f}, p = {chance:.2f})"
    )


def _inverse(parameters: Floats, error: float) -> Floats:
    """Return the n at which each row's law reaches ``error``; infinite at or below its floor."""
    a, b, c = parameters.T
    above = np.maximum(error - c, 0)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray((a / above) ** (1 / b), dtype=np.float64)


def _fit(n: Floats, errors: Floats, deviations: Floats) -> tuple[Floats, Floats]:
    """Fit the law to each row of ``errors``, shape (curves, points).

    Returns:
        a, b and c of each curve, shape (curves, 3), and its weighted sum of squares.
    """
    middle = float(np.exp(np.log(n).mean()))
    distance = np.log(n / middle)
    rows = np.arange(len(errors))
    rates = np.broadcast_to(np.geomspace(_SLOWEST, _FASTEST, 48), (len(errors), 48))
    for _ in range(5):
        tried = np.exp(-rates[:, :, None] * distance)
        slope, floor, squares = _linear(tried, errors[:, None], deviations**-2)
        best = squares.argmin(axis=1)
        found = rows, best
        # Between the neighbours of the best rate lies the best one.
        before = rates[rows, np.maximum(best - 1, 0)]
        after = rates[rows, np.minimum(best + 1, rates.shape[1] - 1)]
        chosen = rates[found], slope[found], floor[found], squares[found]
        rates = np.geomspace(before, after, 12, axis=1)
    b, height, c, least = chosen
    return np.column_stack([height * middle**b, b, c]), least


def _linear(tried: Floats, errors: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit errors = slope x tried + floor, slope >= 0 and 0 <= floor < every error.

    The last axis is that of the points. The problem is convex: if the free floor is out of bounds,
    the best one is at the bound.
    """
    total = weights.sum()
    mean_x, mean_y = (tried @ weights / total)[..., None], (errors @ weights / total)[..., None]
    across = tried - mean_x
    steepness = (across**2) @ weights
    slope = ((across * (errors - mean_y)) @ weights) / np.maximum(steepness, 1e-300)
    floor = mean_y[..., 0] - slope * mean_x[..., 0]
    floor = np.clip(floor, 0, errors.min(axis=-1) * (1 - 1e-6))
    slope = ((tried * (errors - floor[..., None])) @ weights) / ((tried**2) @ weights)
    # The floor is below every error, so the slope is positive without being told.
    squares = ((errors - slope[..., None] * tried - floor[..., None]) ** 2) @ weights
    return slope, floor, squares
