"""``--dry-run``: what a run would do, said before anything is done."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hpo.design import settle
from hpo.errors import InputError
from hpo.executors.local import machine_slots
from hpo.finalists import finalists_of
from hpo.objective import Objective
from hpo.opening import check_requirements, directions_of, name_of
from hpo.sampling import make_pruner, make_sampler
from hpo.settings import Settings
from storage import mask_url


def describe_plan(objective: Objective, settings: Settings) -> list[str]:
    """Return the plan of a run, line by line. Writes nothing that stays.

    Raises:
        InputError: A setting or the data cannot be used.
    """
    check_requirements(settings, objective)
    make_sampler(settings.sampler, settings.seed)
    make_pruner(settings.pruner)
    name = name_of(settings, objective)
    lines = [f"study    {name} in {mask_url(settings.storage)}"]
    prepare = getattr(objective, "prepare", None)
    if prepare is not None:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                objective, said = prepare(Path(scratch), settings.seed)
            except ValueError as error:
                raise InputError(str(error)) from error
        lines += said
    settings, design = settle(settings, objective)
    lines[:0] = design
    aim = ", ".join(directions_of(settings, objective))
    lines += [
        f"trials   {settings.trials} finished (completed or pruned), {aim} "
        f"{getattr(objective, 'metric_name', 'the objective')}",
        f"sampler  {settings.sampler}, pruner {settings.pruner}, seed {settings.seed}",
        f"budget   {_limit(settings.timeout)}, at most {settings.max_failures} failed trials, "
        f"{settings.retries} further attempts for a lost worker",
    ]
    finalists = finalists_of(settings, objective, len(directions_of(settings, objective)) > 1)
    if finalists:
        lines += [f"finals   {finalists} finalists with {settings.seeds} new seeds each"]
    describe = getattr(objective, "describe", None)
    if describe is not None:
        lines += ["space"] + [f"  {line}" for line in describe()]
    lines += _on_modal(settings, objective) if settings.executor == "modal" else _workers(settings)
    directory = settings.out / name
    lines += [f"files    {directory}/ (logs, trials, best)", "nothing was started (--dry-run)"]
    return lines


def _limit(timeout: float | None) -> str:
    return "no time limit" if timeout is None else f"no new trial after {timeout:,.0f} s"


def _on_modal(settings: Settings, objective: Objective) -> list[str]:
    from hpo.on_modal.consent import prices_of, worst_case

    wanted = prices_of(settings, objective)[0].deployment
    gpus = " or ".join(wanted.gpu)
    where = f" in {', '.join(wanted.region)}" if wanted.region else ""
    limit = "" if settings.max_cost is None else f", never above --max-cost {settings.max_cost:g}"
    lines = [
        f"workers  up to {wanted.containers} functions on Modal ({gpus}){where}, app {wanted.name}",
        f"  each: {wanted.cpu:g} cores, {wanted.memory:,} MiB, at most {wanted.timeout:,.0f} s",
    ]
    said, _ = worst_case(settings, objective)
    return [*lines, said[0] + limit, *said[1:]]


def _workers(settings: Settings) -> list[str]:
    if settings.executor == "inline":
        return ["workers  one, in this process"]
    slots = machine_slots(settings.workers)
    lines = [f"workers  {len(slots)} on this machine"]
    lines += [
        f"  worker {slot.index}: "
        + (f"GPU {slot.gpu}" if slot.gpu is not None else f"CPU, {slot.threads} thread(s)")
        for slot in slots
    ]
    return lines
