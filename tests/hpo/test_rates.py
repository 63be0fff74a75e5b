"""Prices: the table, the account's own as far as they are understood, and sweep.toml over both."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import InputError
from hpo.rates import TABLE, Rates, parse_gpu, recognised


@pytest.mark.parametrize(
    ("gpu", "parsed"),
    [
        ("L4", ("L4", 1)),
        ("l4", ("L4", 1)),
        ("A100-80GB:2", ("A100-80GB", 2)),
        ("a100-80gb:8", ("A100-80GB", 8)),
        ("A10G", ("A10", 1)),
        ("A100", ("A100-40GB", 1)),
        ("H100!:4", ("H100", 4)),
    ],
)
def test_a_gpu_has_a_price_and_a_number(gpu: str, parsed: tuple[str, int]) -> None:
    assert parse_gpu(gpu) == parsed


@pytest.mark.parametrize("gpu", ["L4:0", "L4:", "L4:two", "L4:-1", "L4:1.5"])
def test_a_number_of_gpus_is_a_number(gpu: str) -> None:
    with pytest.raises(InputError, match="such as L4:2"):
        parse_gpu(gpu)


def test_a_gpu_without_a_price_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError) as caught:
        parse_gpu("B300")
    message = str(caught.value)
    assert all(name in message for name in TABLE.gpus)
    assert '[rates] "B300" = 0.001' in message
    rates = Rates.of({"b300": 0.002})
    assert rates.per_second("B300:2", 0, 0) == 0.004
    with pytest.raises(InputError, match="B200, B300"):
        rates.per_second("B999", 0, 0)


def test_a_container_costs_its_gpus_its_cores_and_its_memory() -> None:
    rates = Rates.of()
    assert rates.source == "prices of 2026-09"
    assert rates.per_second("L4", 2.0, 8192) == pytest.approx(0.000222 + 2 * 1.31e-5 + 8 * 2.22e-6)
    assert rates.per_second(None, 1.0, 1024) == pytest.approx(1.31e-5 + 2.22e-6)
    assert rates.per_second("H100:2", 0, 0) == 2 * rates.per_second("H100", 0, 0)


def test_the_dearest_counts_how_many() -> None:
    rates = Rates.of()
    assert rates.dearest(["L4", "T4", "A10G"]) == "A10G"
    assert rates.dearest(["L4:8", "H100"]) == "L4:8"


def test_sweep_toml_has_the_last_word() -> None:
    given_rates = {"a10g": 0.5, "cpu": 0.25, "Memory": 0.125}
    rates = Rates.of(given_rates, {"l4": Decimal("0.0003")})
    assert (rates.gpus["A10"], rates.cpu, rates.memory) == (0.5, 0.25, 0.125)
    assert rates.gpus["L4"] == 0.0003
    assert rates.source.startswith("the account's prices, and prices of 2026-09 for T4, L40S")
    assert rates.source.endswith(" + sweep.toml for A10, CPU, memory")
    assert Rates.of({"L4": 0.0}).source == "prices of 2026-09 + sweep.toml for L4"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        *[("H100", "H100"), ("gpu_h100", "H100"), ("NVIDIA H100 per hour", "H100")],
        *[("GPU A100-80GB", "A100-80GB"), ("a100_80gb", "A100-80GB"), ("gpu-a100", "A100-40GB")],
        *[("A10G", "A10"), ("l40s_gpu_hourly", "L40S"), ("cpu", "CPU"), ("CPU (core)", "CPU")],
        *[("cpu_core_hour", "CPU"), ("memory", "memory"), ("mem_gib", "memory")],
        *[("h100_sandbox", None), ("vcpu", None), ("memory_gb", None), ("gpu_b300", None)],
        *[("nonpreemptible_cpu", None), ("volume_storage", None), ("", None), ("gpu", None)],
    ],
)
@pytest.mark.parametrize("unit", [1, 3600])
def test_a_live_price_counts_under_a_name_that_means_nothing_else(
    key: str, name: str | None, unit: int
) -> None:
    table = {**TABLE.gpus, "CPU": TABLE.cpu, "memory": TABLE.memory}
    price = table[name] if name is not None else 0.0003
    found = recognised({key: Decimal(repr(price * unit * 1.5))})
    assert found == ({name: pytest.approx(price * 1.5)} if name is not None else {})


@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_a_live_price_is_never_far_from_the_table(value: float) -> None:
    for price in recognised({"gpu_l4": Decimal(value)}).values():
        assert TABLE.gpus["L4"] / 4 <= price <= TABLE.gpus["L4"] * 4


def test_of_two_live_prices_under_one_name_the_dearest_counts() -> None:
    found = recognised({"gpu_l4": Decimal("0.8"), "L4": Decimal("0.9"), "l4_price": Decimal("0.7")})
    assert found == {"L4": pytest.approx(0.9 / 3600)}


def test_an_account_that_names_every_price_needs_no_table() -> None:
    table = {**TABLE.gpus, "cpu": TABLE.cpu, "memory": TABLE.memory}
    live = {name: Decimal(repr(price * 3600)) for name, price in table.items()}
    rates = Rates.of(live=live)
    assert rates.source == "the account's prices"
    assert rates.gpus == pytest.approx(dict(TABLE.gpus))


def test_no_token_means_no_live_prices_and_a_reason() -> None:
    code = "from hpo.rates import fetch_live_rates; print(fetch_live_rates())"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MODAL_")}
    environment = {**kept, "MODAL_CONFIG_PATH": os.devnull}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("(None, \"Modal does not tell the account's prices (AuthError:")


def test_prices_need_no_modal() -> None:
    code = "import sys, hpo.rates; assert 'modal' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
