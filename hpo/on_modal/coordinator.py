"""A coordinator that lives on Modal, so that the laptop may close.

It owns its study on the container's own disk, where SQLite has the locks that it needs, and copies
it to a Volume as one whole: before a trial is spawned and after one has finished. A coordinator
that died, or that reached Modal's longest timeout, goes on from that copy in its next call.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal

from hpo.coordinator import HANDED_OVER, Coordinator
from hpo.errors import InputError, StudyStoppedError
from hpo.events import FILE
from hpo.objective import load_objective
from hpo.on_modal.executor import Ready, make_modal_executor
from hpo.on_modal.messages import NEWS, STUDIES, parse
from hpo.on_modal.orders import Order, Result
from hpo.progress import PlainProgress
from hpo.scores import DIRECTORY as SCORES_DIRECTORY
from hpo.settings import check
from hpo.status import Moment, Status
from hpo.study import Host, run_study
from storage import StorageError

LOCAL = Path("/tmp/hpo")
"""Where the study lies in the container."""

SAVED_AFTER = (
    "baseline",
    "complete",
    "pruned",
    "failed",
    "finalist",
    "winner",
    "evaluation",
    "end",
)
"""Kinds of moments after which the study is copied at once."""


def coordinate(text: str) -> str:
    """Run a study as an :class:`Order` says; return a :class:`Result`."""
    order = parse(Order, text)
    keeper = Keeper(order)
    keeper.restore()
    news = News(order.key)
    try:
        with contextlib.closing(news):
            return _run(order, keeper, news, text).model_dump_json()
    finally:
        keeper.save()


def _run(order: Order, keeper: Keeper, news: News, text: str) -> Result:
    try:
        settings = check({**order.settings, "storage": keeper.url, "out": str(LOCAL / "runs")})
        outcome = run_study(
            load_objective(order.objective),
            order.objective,
            settings,
            [PlainProgress(news), keeper],  # type: ignore[arg-type]
            news.say,
            Host(
                lambda *_: make_modal_executor(
                    order.deployment,
                    Ready(order.place, order.spent),
                    order.rates,
                    keeper.save,
                    there=True,
                ),
                attend=lambda coordinator: _handing_over(coordinator, order.seconds),
                keeps_model=False,
                url=order.url,
            ),
        )
    except (InputError, StorageError) as error:
        return Result(error=str(error), code=2)
    except StudyStoppedError as error:
        return Result(error=str(error), code=1)
    if outcome.reason == HANDED_OVER:
        keeper.save()
        again: Any = modal.Function.from_name(order.app, "coordinate")
        call = again.spawn(text)
        return Result(successor=call.object_id)
    return Result(code=0)


@contextlib.contextmanager
def _handing_over(coordinator: Coordinator, seconds: float) -> Iterator[None]:
    """Let ``coordinator`` end in time, and leave what runs to the next one."""
    timer = threading.Timer(seconds, coordinator.hand_over)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Keeper:
    """Copies the study to the Volume, and back at the start.

    Args:
        order: Which study.
    """

    def __init__(self, order: Order) -> None:
        self._volume = modal.Volume.from_name(order.volume)
        self._snapshot = Path(STUDIES, order.file)
        self._kept = Path(STUDIES, order.study)
        self._local = LOCAL / order.file
        self._directory = LOCAL / "runs" / order.study
        given = os.environ.get("HPO_STORAGE")
        self.url = given or f"sqlite:///{self._local}"
        self._is_file = given is None
        self._lock = threading.Lock()

    def restore(self) -> None:
        """Begin with what the last coordinator kept, and not with what may lie here."""
        self._volume.reload()
        shutil.rmtree(LOCAL, ignore_errors=True)
        self._directory.mkdir(parents=True)
        if self._kept.is_dir():
            shutil.copytree(self._kept, self._directory, dirs_exist_ok=True)
        if self._is_file and self._snapshot.exists():
            self._local.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._snapshot, self._local)

    def save(self) -> None:
        """Copy the study as it is now; who reads it sees the old copy or the new one."""
        with self._lock:
            if self._is_file and self._local.exists():
                self._snapshot.parent.mkdir(parents=True, exist_ok=True)
                incoming = self._snapshot.with_name(self._snapshot.name + ".new")
                incoming.unlink(missing_ok=True)
                with (
                    contextlib.closing(sqlite3.connect(self._local)) as source,
                    contextlib.closing(sqlite3.connect(incoming)) as target,
                ):
                    source.backup(target)
                    target.execute("PRAGMA journal_mode=DELETE")
                os.replace(incoming, self._snapshot)
            for path in self._changed():
                kept = self._kept / path.relative_to(self._directory)
                kept.parent.mkdir(parents=True, exist_ok=True)
                incoming = kept.with_name(kept.name + ".new")
                shutil.copyfile(path, incoming)
                os.replace(incoming, kept)
            self._volume.commit()

    def _changed(self) -> list[Path]:
        """Return the files beside the database that are not kept as they are now."""
        log, scores = self._directory / FILE, self._directory / SCORES_DIRECTORY
        # Scores are written once, and the log all the time.
        known = {each.name for each in (self._kept / SCORES_DIRECTORY).glob("*")}
        fresh = [each for each in scores.glob("*") if each.name not in known]
        return [*([log] if log.exists() else []), *fresh]

    def on(self, moment: Moment, status: Status) -> None:
        """Copy the study after what must not be lost."""
        if moment.kind in SAVED_AFTER:
            self.save()

    def tick(self, status: Status) -> None:
        """Do nothing: what is worth a copy is a moment."""

    def close(self) -> None:
        """Copy the study once more."""
        self.save()


class News:
    """A stream that goes to whoever follows the study; nothing waits for them.

    Args:
        key: Name of the study's Queue.
    """

    def __init__(self, key: str) -> None:
        self._queue = modal.Queue.from_name(key, create_if_missing=True)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._partial = ""
        self._sender = threading.Thread(target=self._send_all, daemon=True)
        self._sender.start()

    def say(self, line: str) -> None:
        """Tell a line."""
        print(line, flush=True)  # for the container's own log
        self._lines.put(line)

    def write(self, text: str) -> None:
        """Tell the lines of a text."""
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self.say(line)

    def flush(self) -> None:
        """Do nothing: lines are on their way at once."""

    def close(self) -> None:
        """Wait a moment for the last lines to be on their way."""
        self._lines.put(None)
        self._sender.join(10.0)

    def _send_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._queue.put(line, partition=NEWS, block=False)
            except (queue.Full, modal.exception.Error):
                time.sleep(0.1)  # nobody reads, or Modal is busy: the log has it all the same
