"""Optuna's samplers and pruners by the names that people type."""

from __future__ import annotations

from collections.abc import Callable

from optuna import pruners, samplers
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from hpo.errors import InputError
from hpo.grid import GRID, GridSampler

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: samplers.TPESampler(seed=seed),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
    "qmc": lambda seed: samplers.QMCSampler(seed=seed, scramble=True),
    "nsgaii": lambda seed: samplers.NSGAIISampler(seed=seed),
    GRID: GridSampler,
}
"""From a seed to a sampler. TPE's defaults in Optuna 5 are multivariate with a constant liar; the
grid is that of ``--design grid``."""

PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": pruners.NopPruner,
    # A trial is cut only once eight others went as far, and only in the lower part of the field:
    # at the first report curves still cross.
    "median": lambda: pruners.MedianPruner(n_startup_trials=8),
    "percentile": lambda: pruners.PercentilePruner(25.0, n_startup_trials=8),
    "asha": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
}


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Return the sampler called ``name``. Raises :class:`InputError` if there is none."""
    if name not in SAMPLERS:
        known = ", ".join(each for each in SAMPLERS if each != GRID)
        raise InputError(f"--sampler {name!r}: choose one of {known}.")
    return SAMPLERS[name](seed)


def make_pruner(name: str) -> BasePruner:
    """Return the pruner called ``name``. Raises :class:`InputError` if there is none."""
    if name not in PRUNERS:
        raise InputError(f"--pruner {name!r}: choose one of {', '.join(PRUNERS)}.")
    return PRUNERS[name]()
