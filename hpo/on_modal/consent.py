"""Nobody is billed by surprise: what a run may cost at worst is said, and agreed to, before it.

What was agreed to becomes the limit of the run: it is never exceeded.
"""

from __future__ import annotations

import math

from hpo.asking import agrees, can_ask
from hpo.budget import dollars
from hpo.design import settle_beforehand
from hpo.errors import InputError
from hpo.finalists import finalists_of
from hpo.objective import Objective
from hpo.on_modal.deployment import Deployment
from hpo.on_modal.executor import TrialPrices
from hpo.opening import directions_of, name_of
from hpo.rates import Rates, fetch_live_rates
from hpo.settings import Settings
from hpo.text import duration


def agree(settings: Settings, objective: Objective, yes: bool) -> Settings:
    """Return settled settings with a limit to the cost; ask for it if none was given.

    Args:
        settings: The settings of a run on Modal.
        objective: Its objective.
        yes: Whether the worst case was agreed to beforehand.

    Raises:
        InputError: There is nobody to ask, or they said no.
    """
    settings, design = settle_beforehand(settings, objective)
    if settings.max_cost is not None:
        # Also a limit that is too low is found out before anything is done.
        prices_of(settings, objective)
        return settings
    lines, worst = worst_case(settings, objective)
    if not yes:
        if not can_ask():
            raise InputError(
                f"trials on Modal cost money ({lines[0]}), and nobody can be asked: give a limit "
                f"with --max-cost DOLLARS, or agree to the worst case with --yes."
            )
        for line in [*design, *lines]:
            print(line)
        if not agrees(f"Go on, with {dollars(worst)} as the limit (--max-cost)?"):
            raise InputError("not started; --max-cost DOLLARS sets a lower limit.")
    return settings.model_copy(update={"max_cost": worst})


def worst_case(settings: Settings, objective: Objective) -> tuple[list[str], float]:
    """Return what a run may cost at worst, for people and in dollars, rounded up to a cent.

    Raises:
        InputError: A GPU without a price.
    """
    prices, rates = prices_of(settings, objective)
    one = prices.worst_case()
    baselines = len(getattr(objective, "baselines", list)())
    finals = _finals(settings, objective)
    attempts = settings.trials + baselines + finals
    total = math.ceil(attempts * one * 100) / 100
    wanted = prices.deployment
    also = f", {baselines} untuned models" if baselines else ""
    also += f", {finals} attempts of the finals" if finals else ""
    lines = [
        f"worst case {dollars(total)}: {settings.trials} trials{also}, at most {dollars(one)} each "
        f"({duration(wanted.timeout)} on {rates.dearest(wanted.gpu)}, start and idling included)",
        f"prices     {rates.source}; trials of the usual length cost a fraction; what is lost to "
        "Modal and tried again counts, too",
    ]
    return lines, total


def _finals(settings: Settings, objective: Objective) -> int:
    """Return how many attempts the finals take."""
    several = len(directions_of(settings, objective)) > 1
    runs = finalists_of(settings, objective, several) * settings.seeds
    return runs + (runs > 0 and hasattr(objective, "evaluate"))


def prices_of(settings: Settings, objective: Objective) -> tuple[TrialPrices, Rates]:
    """Return what trials cost with ``settings``.

    Raises:
        InputError: A GPU without a price, or a limit under which no trial fits.
    """
    live, _ = fetch_live_rates()
    rates = Rates.of(settings.rates, live)
    wanted = Deployment.of(settings, None, name_of(settings, objective))
    for gpu in wanted.gpu:
        rates.per_second(gpu, wanted.cpu, wanted.memory)
    prices = TrialPrices(rates, wanted)
    one = prices.worst_case()
    if settings.max_cost is not None and settings.max_cost < one:
        raise InputError(
            f"{settings.source_of('max_cost')} {settings.max_cost:g}: one attempt may cost "
            f"{dollars(one)} ({duration(wanted.timeout)} on {rates.dearest(wanted.gpu)}), so none "
            "could start; raise it, shorten --trial-timeout, or choose another --gpu."
        )
    return prices, rates
