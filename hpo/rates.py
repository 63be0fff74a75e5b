"""What a second of a machine on Modal costs: the account's own prices, or a dated table.

Money is reserved before it is spent, so a price must be known before anything runs, also where an
account does not say what it pays. The table stands in there, with its date and its source in sight,
and ``[rates]`` in sweep.toml goes over both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from hpo.errors import InputError

CPU = "CPU"
"""The name in ``[rates]`` of the price of a physical core."""

MEMORY = "memory"
"""The name in ``[rates]`` of the price of a GiB."""

_HOUR = 3600.0

_PLAUSIBLE = 4.0
"""A price that is so many times the table's, or so small a part of it, is of something else."""


@dataclass(frozen=True)
class Table:
    """Prices as they once were.

    Attributes:
        date: When.
        source: Who says so.
        gpus: Dollars a second of one GPU, by Modal's name for it.
        cpu: Dollars a second of a physical core.
        memory: Dollars a second of a GiB.
    """

    date: str
    source: str
    gpus: Mapping[str, float]
    cpu: float
    memory: float


TABLE = Table(
    date="2026-09",
    source="a third party's transcription of Modal's price page",
    gpus=MappingProxyType(
        {
            "T4": 0.000164,
            "L4": 0.000222,
            "A10": 0.000306,
            "L40S": 0.000542,
            "A100-40GB": 0.000583,
            "A100-80GB": 0.000694,
            "H100": 0.001097,
            "H200": 0.001261,
            "B200": 0.001736,
        }
    ),
    cpu=0.0000131,
    memory=0.00000222,
)
"""What is reckoned with unless the account or sweep.toml says otherwise."""

_ALIASES = {"A10G": "A10", "A100": "A100-40GB", "H100!": "H100"}
"""Other names of the same price; ``H100!`` asks that no better GPU is given for it."""


def parse_gpu(gpu: str, more: Collection[str] = ()) -> tuple[str, int]:
    """Return the name of a GPU's price and how many are asked for: ``A100-80GB:2``.

    Args:
        gpu: The GPU as Modal takes it.
        more: Names that have a price besides those of the table.

    Raises:
        InputError: It has no price, or asks for no number of GPUs.
    """
    text, colon, count = gpu.strip().partition(":")
    name = _canonical(text)
    if colon and not re.fullmatch(r"[1-9][0-9]*", count):
        raise InputError(f"--gpu {gpu}: write a GPU, or a GPU and how many of it, such as L4:2.")
    if name not in TABLE.gpus and name not in more:
        known = ", ".join(dict.fromkeys([*TABLE.gpus, *more]))
        raise InputError(
            f"--gpu {gpu}: no price is known for {text!r}, and none of its trials could be paid "
            f"for; there are {known}. Give its price in sweep.toml, in dollars a second: "
            f'[rates] "{text}" = 0.001'
        )
    return name, int(count or 1)


def _canonical(name: str) -> str:
    upper = name.strip().upper()
    return _ALIASES.get(upper, upper)


@dataclass(frozen=True)
class Rates:
    """The prices of a run.

    Attributes:
        gpus: Dollars a second of one GPU, by name.
        cpu: Dollars a second of a physical core.
        memory: Dollars a second of a GiB.
        source: Where they come from, for people.
    """

    gpus: Mapping[str, float]
    cpu: float
    memory: float
    source: str

    @classmethod
    def of(
        cls, overrides: Mapping[str, float] | None = None, live: Mapping[str, Decimal] | None = None
    ) -> Rates:
        """Gather prices: the table < the account's < sweep.toml.

        Args:
            overrides: ``[rates]`` of sweep.toml.
            live: What the account says, see :func:`fetch_live_rates`.
        """
        base = {**TABLE.gpus, CPU: TABLE.cpu, MEMORY: TABLE.memory}
        found = recognised(live or {})
        given = {_price_name(name): price for name, price in (overrides or {}).items()}
        prices = {**base, **found, **given}
        cpu, memory = prices.pop(CPU), prices.pop(MEMORY)
        return cls(MappingProxyType(prices), cpu, memory, _source(base, found, given))

    def per_second(self, gpu: str | None, cpu: float, memory_mib: int) -> float:
        """Return what a second of a container costs, in dollars.

        Args:
            gpu: Its GPUs, as Modal takes them; ``None`` for none.
            cpu: Its physical cores.
            memory_mib: Its memory.

        Raises:
            InputError: The GPU has no price.
        """
        return self._of_gpus(gpu) + cpu * self.cpu + memory_mib / 1024 * self.memory

    def dearest(self, gpus: Sequence[str]) -> str:
        """Return which of ``gpus`` costs most.

        Raises:
            InputError: One of them has no price.
        """
        return max(gpus, key=self._of_gpus)

    def _of_gpus(self, gpu: str | None) -> float:
        if gpu is None:
            return 0.0
        name, count = parse_gpu(gpu, self.gpus)
        return count * self.gpus[name]


def _price_name(name: str) -> str:
    """Return the name of a price that sweep.toml gives, however it writes it."""
    plain = name.strip().lower()
    return {"cpu": CPU, "memory": MEMORY}.get(plain) or _canonical(name)


def _source(base: Collection[str], found: Mapping[str, float], given: Mapping[str, float]) -> str:
    dated = f"prices of {TABLE.date}"
    missing = [name for name in base if name not in found and name not in given]
    if not found:
        said = dated
    elif not missing:
        said = "the account's prices"
    else:
        said = f"the account's prices, and {dated} for {', '.join(missing)}"
    return f"{said} + sweep.toml for {', '.join(given)}" if given else said


# The account's own prices, whose names and units are not documented.

_FILLER = {"compute", "cost", "gpu", "hour", "hourly", "hr", "nvidia", "per", "price", "rate"}
_FILLER |= {"s", "sec", "second", "usd"}
_CPU_KEYS = ({"cpu"}, {"cpu", "core"}, {"cpu", "cores"}, {"cpu", "physical", "core"})
_MEMORY_KEYS = ({"memory"}, {"memory", "gib"}, {"mem"}, {"mem", "gib"}, {"ram"}, {"ram", "gib"})


def recognised(live: Mapping[str, Decimal]) -> dict[str, float]:
    """Return the account's prices in dollars a second, by the names of the table.

    A price counts only under a name that can mean nothing else, and only if it is like the table's
    by the second or by the hour; of several under one name it is the dearest.
    """
    known = {**TABLE.gpus, CPU: TABLE.cpu, MEMORY: TABLE.memory}
    found: dict[str, float] = {}
    for key, value in live.items():
        name = _name_of(key)
        price = _per_second(float(value), known[name]) if name is not None else None
        if name is not None and price is not None:
            found[name] = max(price, found.get(name, 0.0))
    return found


def _name_of(key: str) -> str | None:
    """Return which price a key is of; ``None`` for one that may be of something else."""
    words = [word for word in re.findall(r"[a-z0-9!]+", key.lower()) if word not in _FILLER]
    if set(words) in _CPU_KEYS:
        return CPU
    if set(words) in _MEMORY_KEYS:
        return MEMORY
    names = {re.sub(r"\W", "", name): _ALIASES.get(name, name) for name in [*TABLE.gpus, *_ALIASES]}
    return names.get("".join(words).upper().rstrip("!"))


def _per_second(value: float, expected: float) -> float | None:
    """Return a price a second, whichever unit it is in; ``None`` if it is like none."""
    for price in (value, value / _HOUR):
        if expected / _PLAUSIBLE <= price <= expected * _PLAUSIBLE:
            return price
    return None


def fetch_live_rates() -> tuple[Mapping[str, Decimal] | None, str]:
    """Ask Modal what the account pays; whatever comes of it, no run ends here.

    Returns:
        The prices as the account names them, or ``None`` and why there are none, for people.
    """
    import modal

    try:
        return dict(modal.Workspace.from_context().billing.rates()), ""
    except (modal.exception.Error, ArithmeticError, OSError) as error:
        said = str(error).strip() or "no reason given"
        return None, f"Modal does not tell the account's prices ({type(error).__name__}: {said})"
