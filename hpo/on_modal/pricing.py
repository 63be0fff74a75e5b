"""How long a container on Modal is billed for an attempt, and on which GPU it runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Protocol

from hpo.executors.local import ask_gpus
from hpo.on_modal.messages import Start
from hpo.protocol import Usage

BOOT_SECONDS = 2.0
"""Added for what happens in a container before its Python process starts; an allowance."""

STARTUP_SECONDS = 120
"""How long a container may take to start; Modal ends one that takes longer."""

IDLE_SECONDS = 20
"""How long a container without work is kept, and billed: long enough that the next trial finds it
warm (asking and spawning takes a second), short enough to cost little."""

GRACE_SECONDS = 60
"""By how much Modal's own timeout is longer than the attempt's, which the worker keeps itself; for
what does not let itself be interrupted, such as a hanging kernel."""

REGION_FACTOR = 1.75
"""What Modal multiplies its prices with where a region is asked for: 1.5 for a broad one such as
``us``, this for a narrow one (its documentation in 2026)."""

COORDINATOR_CPU = 0.5
COORDINATOR_MEMORY = 2048
"""Cores and MiB of a coordinator on Modal, which mostly waits."""

_KNOWN = (
    ("B200", r"B200"),
    ("H200", r"H200"),
    ("H100", r"H100"),
    ("A100-80GB", r"A100.*80"),
    ("A100-40GB", r"A100"),
    ("L40S", r"L40S"),
    ("A10", r"A10G?\b"),
    ("L4", r"\bL4\b"),
    ("T4", r"\bT4\b"),
)
"""Modal's names of GPUs, by what NVIDIA's driver calls them."""


class Prices(Protocol):
    """What seconds cost."""

    def usage(self, seconds: float, gpu: str | None = None) -> Usage:
        """Return what a trial's container costs for so long; ``None`` is a GPU not known."""


def worst_seconds(timeout: float) -> float:
    """Return the most seconds that an attempt of ``timeout`` seconds can be billed.

    Restarts share the attempt's time, so there is one full start before it and one after it.
    """
    return timeout + GRACE_SECONDS + 2 * (STARTUP_SECONDS + BOOT_SECONDS) + IDLE_SECONDS


def billed_before(starts: Sequence[Start]) -> float:
    """Return the seconds of the containers that had an attempt before the last of ``starts``.

    One that could not say when it ended is billed until the next one took over.
    """
    return sum(
        max(0.0, (sooner.ended or later.began) - sooner.billed_from)
        for sooner, later in itertools.pairwise(starts)
    )


def seconds_at_most(starts: Sequence[Start], spawned: float, now: float, timeout: float) -> float:
    """Return the most seconds that a call without a result can be billed.

    Args:
        starts: The containers that took it up.
        spawned: When it was spawned.
        now: When it had ended.
        timeout: Seconds that an attempt may run.
    """
    if starts:
        last = (starts[-1].ended or now) - starts[-1].billed_from
        seconds = billed_before(starts) + max(0.0, last) + IDLE_SECONDS
    else:  # a container may have started for it, and idled
        seconds = min(now - spawned, STARTUP_SECONDS + BOOT_SECONDS) + IDLE_SECONDS
    return min(max(0.0, seconds), worst_seconds(timeout))


def gpu_of_this_container() -> str | None:
    """Return Modal's name of the GPU here; ``None`` if there is none, or an unknown one."""
    names = ask_gpus("name")
    if not names:
        return None
    found = next((name for name, pattern in _KNOWN if re.search(pattern, names[0])), None)
    return f"{found}:{len(names)}" if found is not None and len(names) > 1 else found
