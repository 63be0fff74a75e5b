"""Putting the executor together: prices, and where things lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import modal

from hpo.executors.modal import ModalExecutor, Place
from hpo.on_modal.deployment import Deployment
from hpo.on_modal.messages import FINGERPRINT
from hpo.on_modal.pricing import BOOT_SECONDS, IDLE_SECONDS, REGION_FACTOR, worst_seconds
from hpo.rates import Rates, parse_gpu


@dataclass(frozen=True)
class TrialPrices:
    """What a container for trials costs.

    Attributes:
        rates: Prices per second.
        deployment: Which container.
    """

    rates: Rates
    deployment: Deployment

    def dollars(self, seconds: float, gpu: str | None) -> float:
        """Return the price of so many seconds.

        Args:
            seconds: How many.
            gpu: The GPU; ``None`` stands for the dearest that is allowed, and so does a better one
                than was asked for: Modal gives it for the price of the other.
        """
        wanted = self.deployment
        asked = {parse_gpu(each, self.rates.gpus) for each in wanted.gpu}
        known = gpu is not None and parse_gpu(gpu, self.rates.gpus) in asked
        used = gpu if known else self.rates.dearest(wanted.gpu)
        return seconds * self._factor * self.rates.per_second(used, wanted.cpu, wanted.memory)

    @property
    def _factor(self) -> float:
        return REGION_FACTOR if self.deployment.region else 1.0

    def worst_case(self) -> float:
        """Return what one attempt may cost at most."""
        return self.dollars(worst_seconds(self.deployment.timeout), None)

    def housekeeping(self, seconds: float, containers: int) -> float:
        """Return the price of CPU containers, none of which had more than ``seconds`` of work."""
        each = seconds + BOOT_SECONDS + IDLE_SECONDS
        return containers * each * self._factor * self.rates.per_second(None, 1.0, 4096)


@dataclass(frozen=True)
class Ready:
    """What a coordinator needs to run trials on Modal, as JSON would carry it.

    Attributes:
        place: Where things lie.
        spent: Dollars that getting ready has cost.
        deployment: The fingerprint of what is deployed; ``None`` in a container, which knows its
            own.
    """

    place: Place
    spent: float
    deployment: str | None = None


def make_modal_executor(
    wanted: Deployment,
    ready: Ready,
    rates: Rates,
    before_spawn: Callable[[], None] = lambda: None,
) -> ModalExecutor:
    """Return the executor of a deployed app whose cache is filled."""
    prices = TrialPrices(rates, wanted)
    gpus = " or ".join(wanted.gpu)
    return ModalExecutor(
        function=modal.Function.from_name(wanted.name, "run_trial"),
        place=ready.place,
        capacity=wanted.containers,
        timeout=wanted.timeout,
        worst_case=prices.worst_case(),
        prices=prices,
        description=f"up to {wanted.containers} functions on Modal ({gpus})",
        deployment=ready.deployment or os.environ.get(FINGERPRINT, ""),
        spent=ready.spent,
        before_spawn=before_spawn,
    )
