"""What trials on Modal cost: never more than the limit, and never less than what is billed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import InputError
from hpo.on_modal.deployment import Deployment
from hpo.on_modal.executor import TrialPrices
from hpo.on_modal.messages import Start
from hpo.on_modal.pricing import (
    BOOT_SECONDS,
    IDLE_SECONDS,
    billed_before,
    gpu_of_this_container,
    seconds_at_most,
    worst_seconds,
)
from hpo.rates import Rates
from hpo.settings import check
from tests.hpo.modal_support import Modal, attempts, states
from tests.modal_loopback import Faults

TRIAL = 40.0
"""The time limit of trials here, in seconds."""


def prices(**settings: object) -> TrialPrices:
    wanted = check({"trial_timeout": TRIAL, **settings})
    return TrialPrices(Rates.of(), Deployment.of(wanted, None, "s"))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_limit_holds_whatever_happens(on_modal: Modal) -> None:
    one = prices().worst_case()
    limit = 2.5 * one
    on_modal.plane.faults = Faults(preempt_after=0.8, preempt_share=0.4, crash_share=0.4, seed=3)
    ran = on_modal.run("patient", 3, study="money", max_cost=limit, trial_timeout=TRIAL, retries=5)
    status = ran.outcome.status
    assert on_modal.bill("money") <= status.spent <= limit
    assert states(ran.trials) == {"COMPLETE": 3}
    told = [each for trial in ran.trials for each in attempts(trial)]
    assert {each["cause"] for each in told} == {"ok", "lost"}
    for each in told:
        assert each["gpu"] == "L4"
        assert each["dollars"] == pytest.approx(prices().usage(each["seconds"]).dollars)
        assert each["dollars"] <= one
    assert status.spent == pytest.approx(sum(each["dollars"] for each in told), abs=0.01)


def test_the_price_of_seconds() -> None:
    plain = prices().usage(100, "L4")
    assert (plain.gpu, plain.seconds) == ("L4", 100)
    assert plain.dollars == pytest.approx(100 * (0.000222 + 2 * 0.0000131 + 8 * 0.00000222))
    assert prices().usage(100) == plain
    assert prices(region="us").usage(100).dollars == pytest.approx(1.75 * plain.dollars)
    choice = prices(gpu="T4,L4")
    assert choice.usage(100) == plain.model_copy(update={"gpu": None})
    assert choice.usage(100, "T4").dollars < plain.dollars
    # Modal may give an H200 where an H100 was asked for, at the price of that.
    better, asked = prices(gpu="H100").usage(100, "H200"), prices(gpu="H100").usage(100, "H100")
    assert (better.gpu, better.dollars) == ("H200", asked.dollars)
    assert choice.worst_case() == pytest.approx(plain.dollars / 100 * worst_seconds(TRIAL))


def test_a_trial_longer_than_modal_allows_is_refused() -> None:
    with pytest.raises(InputError, match=r"trial_timeout 24 h .* 23 h 59 min at most"):
        prices(trial_timeout="24h")


moments = st.floats(0, 1000)


@given(st.lists(st.tuples(moments, moments, st.booleans()), max_size=5), moments, moments)
def test_a_call_without_a_result_is_never_charged_more_than_was_set_aside(
    containers: list[tuple[float, float, bool]], spawned: float, later: float
) -> None:
    starts = [
        Start(container="c", billed_from=boot, began=boot + 1, ended=boot + lived if told else None)
        for boot, lived, told in containers
    ]
    seconds = seconds_at_most(starts, spawned, spawned + later, TRIAL)
    assert 0 <= seconds <= worst_seconds(TRIAL)
    if not starts:
        assert seconds >= min(later, BOOT_SECONDS)


def test_seconds_of_containers_that_were_taken_away() -> None:
    told = Start(container="a", billed_from=100, began=103, ended=110)
    silent = Start(container="b", billed_from=150, began=152)
    # It was warm, and is billed from the end of what it did before: not from a's end on.
    warm = Start(container="c", billed_from=90, began=170)
    assert billed_before([told]) == 0
    assert billed_before([told, warm]) == 10
    assert billed_before([told, silent, warm]) == 10 + 20
    assert seconds_at_most([told], 0, 500, TRIAL) == 10 + IDLE_SECONDS


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A10G", "A10"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla T4\nTesla T4", "T4:2"),
        ("NVIDIA GeForce", None),
        ("", None),
    ],
)
def test_the_gpu_of_a_container(
    said: str, known: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpu_of_this_container() == known


def test_no_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_of_this_container() is None
