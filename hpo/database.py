"""The study's database as its coordinator sees it: there and ours, or away for a while."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hpo.errors import StudyStoppedError
from hpo.text import duration
from storage import OwnedError, Ownership, StorageError, is_outage, reason

FIRST_PAUSE_SECONDS = 0.5
"""How long after a failure the database is asked again; every further pause is twice as long."""

LONGEST_PAUSE_SECONDS = 10.0
"""What the pauses grow to: the longest that a database that is back goes unnoticed."""


CHECK_SECONDS = 0.5
"""How often a database that is there is asked whether the study is still ours."""


class Database:
    """Knows whether the database may be used now, and rides out its outages.

    Args:
        own: Takes the study's lock, as :func:`storage.own_study`; called again after the lock was
            lost with a connection.
        grace: How long the database may be away, in seconds, before the study is given up.

    Raises:
        storage.StorageError: The study is owned by another, or the database cannot be reached.
    """

    def __init__(self, own: Callable[[], Ownership], grace: float = 600.0) -> None:
        self._own = own
        self._ownership = own()
        self._grace = grace
        self._away_since: float | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._next_try = 0.0
        self._checked = 0.0
        self.failure = ""
        """What the last failure said."""

    @property
    def is_away(self) -> bool:
        """Whether the database failed and has not been used with success since."""
        return self._away_since is not None

    def away_seconds(self) -> float:
        """Return for how long the database has been away."""
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def ready(self) -> bool:
        """Return whether to use the database now: it is ours and, as far as is known, there.

        Raises:
            StudyStoppedError: It was away for longer than the grace, or another coordinator has
                taken the study meanwhile.
        """
        if self.is_away and time.monotonic() < self._next_try:
            return False
        if not self._still_ours():
            # Another may have owned and left the study since: that is an outage, however short.
            self._away_since = self._away_since or time.monotonic()
            self.failure = "the study's lock was lost with its connection"
            self._next_try = 0.0
            self._ownership.release()  # what is left of it would refuse its successor
            try:
                self._ownership = self._own()
            except OwnedError as error:
                ours = (error.owner.pid, error.owner.host) == (os.getpid(), socket.gethostname())
                if not ours:
                    raise StudyStoppedError(
                        f"the lock of the study was lost with its database. {error}"
                    ) from error
                # Our own broken connection: the server has not noticed yet that it is gone.
                self._failed(str(error))
            except StorageError as error:
                self._failed(str(error))
        return not self.is_away or time.monotonic() >= self._next_try

    def _still_ours(self) -> bool:
        now = time.monotonic()
        if not self.is_away and now - self._checked < CHECK_SECONDS:
            return True
        self._checked = now
        return self._ownership.check()

    @contextmanager
    def riding_out(self) -> Iterator[None]:
        """Do something with the database; an outage ends the block and is remembered.

        Whoever uses this looks at :attr:`is_away` afterwards and does the same again when the
        database is :meth:`ready`.
        """
        try:
            yield
        except Exception as error:
            if not is_outage(error):
                raise
            self._failed(reason(error))

    def back(self) -> None:
        """Take note that everything which had to wait is written."""
        self._away_since = None
        self._pause = FIRST_PAUSE_SECONDS

    def release(self) -> None:
        """Give up the study."""
        self._ownership.release()

    def _failed(self, said: str) -> None:
        now = time.monotonic()
        self.failure = said
        self._away_since = self._away_since or now
        if self.away_seconds() >= self._grace:
            raise StudyStoppedError(
                f"the database has been away for {duration(self.away_seconds())} (--db-grace): "
                f"{self.failure}"
            )
        # Not after the grace: whoever waits that long is to hear at the end of it.
        self._next_try = min(now + self._pause, self._away_since + self._grace)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
