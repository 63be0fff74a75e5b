"""What people see: plain lines in a pipe, a few live lines on a terminal."""

from __future__ import annotations

import io
import time

from rich.console import Console

from hpo.progress import LiveProgress, PlainProgress, headline, make_progress, render
from hpo.status import Moment, RunningTrial, Status
from hpo.text import duration, parameter, score


def status(**changes: object) -> Status:
    made = Status(study="s", metric="score", maximize=True, trials=64)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_pipe_gets_one_plain_line_an_event_and_details_indented() -> None:
    stream = io.StringIO()
    progress = make_progress(stream)
    assert isinstance(progress, PlainProgress)
    progress.on(Moment("failed", "trial 3 failed", "line 1\nline 2"), status(complete=5))
    progress.tick(status())
    progress.close()
    assert stream.getvalue() == "[  5/64] trial 3 failed\n    line 1\n    line 2\n"
    assert "\x1b" not in stream.getvalue()


def test_the_headline_says_what_is_known() -> None:
    assert headline(status()) == "0 pruned · 0 failed"
    assert headline(status(baseline=(0.8849, "MiniLM"))) == "untuned 0.8849 · 0 pruned · 0 failed"
    full = status(
        baseline=(0.8849, "MiniLM"),
        best=(0.9189, 27),
        complete=29,
        pruned=12,
        failed=1,
        began=time.monotonic() - 41 * 7,
    )
    assert headline(full) == (
        "best 0.9189 (+0.0340) trial 27 · 12 pruned · 1 failed · about 3 min left"
    )


def test_the_headline_says_what_is_spent_where_money_is() -> None:
    paid = status(worst_case=0.5, reserved=0.5)
    assert headline(paid) == "0 pruned · 0 failed · $0.00"
    paid = status(worst_case=0.5, max_cost=20.0, spent=1.42, spent_before=0.8, complete=47)
    paid.finished_before = 47
    paid.began = time.monotonic() - 7200
    assert headline(paid) == "0 pruned · 0 failed · $1.42 of $20 · $0.31/h · $0.03 a trial"
    assert "$0.25" in headline(status(spent=0.25))  # also where going on costs nothing


def test_a_gain_is_positive_when_it_is_better() -> None:
    assert status(best=(0.2, 1), baseline=(0.5, "m"), maximize=False).gain() == 0.3


def test_time_left_counts_only_this_run() -> None:
    resumed = status(complete=32, finished_before=32)
    assert resumed.seconds_left() is None
    resumed.complete = 34
    resumed.began = time.monotonic() - 10
    left = resumed.seconds_left()
    assert left is not None
    assert 149 < left < 151


def test_the_view_shows_what_runs_where() -> None:
    shown = status(complete=2, best=(0.9, 1))
    shown.running = {
        "a": RunningTrial(7, "MiniLM 256d", step=75, value=0.9121),
        "b": RunningTrial(5, "MiniLM@3", attempt=2),
        "c": RunningTrial(-1, "MiniLM", started=True, name="base"),
    }
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(render(shown))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0][0] == "2/64"
    assert lines[1][:3] == ["base", "MiniLM", "running"]
    assert lines[2][:5] == ["#5", "attempt", "2", "MiniLM@3", "waiting"]
    assert lines[3][:6] == ["#7", "MiniLM", "256d", "step", "75", "0.9121"]


def test_failures_stay_on_the_terminal_above_the_live_view() -> None:
    stream = io.StringIO()
    live = LiveProgress(Console(file=stream, force_terminal=True, width=100))
    live.on(Moment("start", "trial 1 starts"), status())
    live.on(Moment("failed", "trial 1 failed (bug): oops", "its output"), status(failed=1))
    live.close()
    text = stream.getvalue()
    assert "trial 1 failed (bug): oops" in text
    assert "its output" in text
    assert "trial 1 starts" not in text


def test_numbers_read_well() -> None:
    assert [score(v) for v in (0.91894, 0.0, -3.5, 1e-7, 2e9)] == [
        "0.9189",
        "0.0000",
        "-3.5000",
        "1e-07",
        "2e+09",
    ]
    assert [parameter(v) for v in (0.00012345, 256, "a", None)] == ["0.000123", "256", "a", "None"]


def test_durations_read_well() -> None:
    assert [duration(s) for s in (5, 89, 180, 7800)] == ["5 s", "89 s", "3 min", "2 h 10 min"]
