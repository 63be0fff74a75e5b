"""Putting the executor together: prices, and where things lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import modal

from hpo.executors.modal import ModalExecutor, Place
from hpo.on_modal.deployment import Deployment
from hpo.on_modal.messages import FINGERPRINT
from hpo.on_modal.pricing import (
    BOOT_SECONDS,
    COORDINATOR_CPU,
    COORDINATOR_MEMORY,
    IDLE_SECONDS,
    REGION_FACTOR,
    worst_seconds,
)
from hpo.protocol import Usage
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

    def usage(self, seconds: float, gpu: str | None = None) -> Usage:
        """Return what so many seconds of a trial's container cost.

        Args:
            seconds: How many.
            gpu: The GPU; ``None`` if it is not known. The dearest that is allowed is reckoned with
                then, and also for a better one than was asked for: Modal gives it for the price of
                the other.
        """
        wanted = self.deployment
        if gpu is None and len(wanted.gpu) == 1:
            gpu = wanted.gpu[0]
        asked = {parse_gpu(each, self.rates.gpus) for each in wanted.gpu}
        known = gpu is not None and parse_gpu(gpu, self.rates.gpus) in asked
        used = gpu if known else self.rates.dearest(wanted.gpu)
        second = self._factor * self.rates.per_second(used, wanted.cpu, wanted.memory)
        return Usage(gpu=gpu, seconds=seconds, dollars=seconds * second)

    @property
    def _factor(self) -> float:
        return REGION_FACTOR if self.deployment.region else 1.0

    def worst_case(self) -> float:
        """Return what one attempt may cost at most."""
        return self.usage(worst_seconds(self.deployment.timeout)).dollars

    def coordinator(self) -> float:
        """Return the price of a second of a coordinator on Modal."""
        memory = COORDINATOR_MEMORY
        return self._factor * self.rates.per_second(None, COORDINATOR_CPU, memory)

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
    there: bool = False,
) -> ModalExecutor:
    """Return the executor of a deployed app whose cache is filled.

    Args:
        wanted: What is deployed.
        ready: Where things lie.
        rates: What seconds cost.
        before_spawn: Called before each spawn.
        there: Whether the coordinator is on Modal itself, and costs money, too.
    """
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
        upkeep=prices.coordinator() if there else 0.0,
    )
