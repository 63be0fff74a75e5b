"""What tests may read of a plane's past: its calls, its containers and their price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

RATES = {
    "T4": 0.000164,
    "L4": 0.000222,
    "A10": 0.000306,
    "A10G": 0.000306,
    "L40S": 0.000542,
    "A100": 0.000583,
    "A100-40GB": 0.000583,
    "A100-80GB": 0.000694,
    "H100": 0.001097,
    "H200": 0.001261,
    "B200": 0.001736,
    "cpu": 0.0000131,
    "memory": 0.00000222,
}
"""Dollars a second: of each GPU, of a CPU core (``cpu``) and of a GiB of memory (``memory``)."""


@dataclass(frozen=True)
class CallRecord:
    """A call of a function, as it stands.

    Attributes:
        id: ``fc-…``, as the client knows it.
        function: The function's name.
        app: The app's name (its description, if it is ephemeral).
        spawned_at: When it arrived, in seconds since the epoch.
        status: ``pending``, ``running``, ``done``, ``failed``, ``cancelled`` or ``expired``.
        starts: How often its inputs began in a container.
        gpu: The GPUs asked for, the most wanted first.
        timeout: Its time limit in seconds.
        region: The regions asked for, joined by commas.
        arguments: Its arguments as the client sent them, or the id of the blob that holds them.
    """

    id: str
    function: str
    app: str
    spawned_at: float
    status: str
    starts: int
    gpu: list[str]
    timeout: int
    region: str
    arguments: bytes | str


@dataclass(frozen=True)
class ContainerRecord:
    """A container, as it stands.

    Attributes:
        id: ``ta-…``.
        function: The name of its function.
        app: The name of its app.
        gpu: The GPU given to it, with ``:2`` if there are two.
        cpu: Its CPU cores.
        memory_mib: Its memory.
        started: When its process began, in seconds since the epoch.
        ended: When its process ended; ``None`` while it runs.
        exit_code: What its process ended with; a signal is negative.
        seconds: How long it has run, idle time included.
        preempted: Whether it was told to make room.
        log: The file of its standard output and error.
    """

    id: str
    function: str
    app: str
    gpu: str | None
    cpu: float
    memory_mib: int
    started: float
    ended: float | None
    exit_code: int | None
    seconds: float
    preempted: bool
    log: Path


def price(container: ContainerRecord, rates: Mapping[str, float] = RATES) -> float:
    """Return the dollars that a container has cost.

    Raises:
        ValueError: The rates have no price for its GPU.
    """
    a_second = container.cpu * rates["cpu"] + container.memory_mib / 1024 * rates["memory"]
    if container.gpu is not None:
        kind, _, count = container.gpu.partition(":")
        if kind not in rates:
            raise ValueError(f"no rate for the GPU {kind!r}; there is one for {', '.join(rates)}")
        a_second += rates[kind] * int(count or 1)
    return a_second * container.seconds


def total(containers: Iterable[ContainerRecord], rates: Mapping[str, float] = RATES) -> float:
    """Return the dollars that containers have cost together."""
    return sum(price(container, rates) for container in containers)
