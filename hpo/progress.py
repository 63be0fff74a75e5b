"""What people see while a study runs: a live view on a terminal, one line an event in a pipe."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.budget import dollars, limit_text
from hpo.status import Moment, Observer, RunningTrial, Status
from hpo.text import duration, score

DETAIL_INDENT = "    "

TOO_MUCH = ("begin", "ask", "verdict", "end")
"""Kinds of moments that only a log is for."""

WORTH_A_LINE = (
    "failed",
    "retry",
    "baseline",
    "finalist",
    "winner",
    "evaluation",
    "stop",
    "database",
)
"""Kinds of moments that stay on a terminal; the others show in the live view."""


def make_progress(stream: TextIO | None = None) -> Observer:
    """Return the view that suits ``stream`` (stdout by default)."""
    stream = stream or sys.stdout
    if stream.isatty():
        return LiveProgress(Console(file=stream))
    return PlainProgress(stream)


class PlainProgress:
    """Prints one line an event, and no control characters.

    Args:
        stream: Where to print.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def on(self, moment: Moment, status: Status) -> None:
        """Print ``moment`` if it is news to people."""
        if moment.kind in TOO_MUCH:
            return
        print(f"[{status.finished:>3}/{status.trials}] {moment.text}", file=self._stream)
        for line in moment.detail.splitlines():
            print(DETAIL_INDENT + line, file=self._stream)
        self._stream.flush()

    def tick(self, status: Status) -> None:
        """Print nothing: only events are news."""

    def close(self) -> None:
        """Leave the stream to its owner."""


class LiveProgress:
    """Keeps a few lines at the bottom of a terminal up to date; failures scroll by above them.

    Args:
        console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        # Refreshed from the coordinator's loop, not from a thread of rich's own.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()

    def on(self, moment: Moment, status: Status) -> None:
        """Show ``moment`` if it would be missed in the view, and update the view."""
        if moment.kind in WORTH_A_LINE:
            style = "red" if moment.kind == "failed" else None
            self._console.print(Text(moment.text, style=style or ""))
            for line in moment.detail.splitlines():
                self._console.print(Text(DETAIL_INDENT + line, style="dim"))
        self.tick(status)

    def tick(self, status: Status) -> None:
        """Draw the view."""
        self._live.update(render(status), refresh=True)

    def close(self) -> None:
        """Remove the view."""
        self._live.stop()


def render(status: Status) -> Group:
    """Draw where a study stands: a line for the study, and one for each running attempt."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(f"{status.finished:>3}/{status.trials}", style="bold"),
        ProgressBar(total=status.trials, completed=status.finished, width=32),
        Text(headline(status)),
    )
    rows = Table.grid(padding=(0, 2))
    for running in sorted(status.running.values(), key=lambda each: each.number):
        rows.add_row(*_row(running))
    return Group(head, rows)


def headline(status: Status) -> str:
    """Say in one line how far a study is; the time left is an estimate and says so."""
    parts = []
    if status.best is not None:
        value, number = status.best
        gain = status.gain()
        beyond = f" ({gain:+.4f})" if gain is not None else ""
        parts.append(f"best {score(value)}{beyond} trial {number}")
    elif status.baseline is not None:
        parts.append(f"untuned {score(status.baseline[0])}")
    parts += [f"{status.pruned} pruned", f"{status.failed} failed"]
    if status.finals is not None:
        parts.append("finalists {}/{}".format(*status.finals))
    if status.infeasible:
        parts.append(f"{status.infeasible} infeasible")
    if status.away:
        parts.append("the database is away")
    parts += _money(status)
    left = status.seconds_left()
    if left is not None and status.finals is None:
        parts.append(f"about {duration(left)} left")
    return " · ".join(parts)


def _money(status: Status) -> list[str]:
    """Say what is spent, how fast, and for what; nothing where nothing is paid for."""
    if not status.is_paid:
        return []
    limit = f" of {limit_text(status.max_cost)}" if status.max_cost is not None else ""
    parts = [dollars(status.spent) + limit]
    an_hour, a_trial = status.dollars_per_hour(), status.dollars_per_trial()
    if an_hour > 0:
        parts.append(f"{dollars(an_hour)}/h")
    if a_trial is not None:
        parts.append(f"{dollars(a_trial)} a trial")
    return parts


def _row(running: RunningTrial) -> tuple[Text, Text, Text, Text]:
    name = running.name
    if running.attempt > 1:
        name += f" attempt {running.attempt}"
    step = "running" if running.started else "waiting"
    if running.step is not None:
        step = f"step {running.step}"
    value = score(running.value) if running.value is not None else ""
    elapsed = duration(time.monotonic() - running.since)
    return Text(name, style="bold"), Text(running.label), Text(f"{step}  {value}"), Text(elapsed)
