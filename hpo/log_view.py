"""``hpo log``: a study's log of decisions, found and printed for people."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from hpo.errors import InputError
from hpo.events import FILE, Damaged, Event, follow_events, read_events
from hpo.queries import Found, is_snapshot, recorded_directory
from hpo.status import Kind
from hpo.strict_json import to_json


@dataclass(frozen=True)
class Wanted:
    """Which moments to show.

    Attributes:
        trial: Only what happened to the trial of this number.
        kinds: Only moments of these kinds; all if empty.

    Raises:
        InputError: There is no such kind.
    """

    trial: int | None = None
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in get_args(Kind):
                raise InputError(f"--kind {kind!r}: choose from {', '.join(get_args(Kind))}.")

    def __contains__(self, event: Event) -> bool:
        """Whether to show ``event``."""
        return (self.trial is None or event.trial == self.trial) and (
            not self.kinds or event.kind in self.kinds
        )


def print_log(
    path: Path, wanted: Wanted, last: int | None, as_json: bool = False, follow: bool = False
) -> None:
    """Print a log; damaged lines are named on stderr.

    Args:
        path: The log.
        wanted: Which moments.
        last: Only so many of them, the newest; ``None`` for all.
        as_json: Print a JSON object a moment instead of lines for people.
        follow: Go on with what is added to the log, for ever.
    """
    lines = 0
    chosen: deque[Event] = deque(maxlen=last)
    for event in read_events(path):
        lines += 1
        if isinstance(event, Damaged):
            _warn(event, path)
        elif event in wanted:
            chosen.append(event)
    for event in chosen:
        print(_line(event, as_json))
    if not follow:
        return
    sys.stdout.flush()
    for event in follow_events(path, after=lines):
        if isinstance(event, Damaged):
            _warn(event, path)
        elif event in wanted:
            print(_line(event, as_json), flush=True)


@contextmanager
def readable_log(found: Found) -> Iterator[Path]:
    """Give the log of a study; that of a snapshot on Modal is fetched, and kept up to date.

    Raises:
        InputError: It is not to be found.
    """
    url = found.settings.storage
    if not is_snapshot(url):
        yield find_log(found)
        return
    from hpo.on_modal.snapshot import fetch_log, kept_fresh

    def fetch() -> Path:
        return fetch_log(url, found.study.study_name)

    path = fetch()
    with kept_fresh(fetch):
        yield path


def find_log(found: Found) -> Path:
    """Return where a study's log is.

    That is the directory which the study's record names, or the one of that name under --out: the
    study may have been copied here.

    Raises:
        InputError: Neither holds a log on this machine.
    """
    name = found.study.study_name
    recorded = recorded_directory(found.study)
    here = (found.settings.out / name).resolve()
    places = list(dict.fromkeys([here] if recorded is None else [recorded, here]))
    for place in places:
        if (place / FILE).is_file():
            return place / FILE
    listed = " nor ".join(str(place / FILE) for place in places)
    raise InputError(
        f"there is no log of study {name!r} at {listed}. It is written where the coordinator runs: "
        "ask on that machine, or name the directory that holds the study's with HPO_OUT."
    )


def _line(event: Event, as_json: bool) -> str:
    """Return an event as it is printed."""
    if as_json:
        record = {**asdict(event), "time": event.time.isoformat(timespec="milliseconds")}
        return to_json({key: value for key, value in record.items() if value not in (None, "", {})})
    time = event.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    number = "" if event.trial is None else f"#{event.trial}"
    text = event.text
    reason = event.data.get("reason")
    if isinstance(reason, str) and reason not in text:
        text += f" ({reason})"
    more = "".join(f"\n    {line}" for line in event.detail.splitlines())
    return f"{time}  {number:>6}  {event.kind:<8}  {text}{more}"


def _warn(damaged: Damaged, path: Path) -> None:
    print(
        f"hpo: line {damaged.number} of {path} was cut short and is left out: {damaged.start!r}",
        file=sys.stderr,
    )
