"""What goes wrong with a database, said in words a person can act on.

Every message names the address (its password masked), the rule it breaks and the way out, so that a
command line can print it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


class StorageError(ValueError):
    """A database cannot be used: a wrong address, an unreachable server, another schema."""


@dataclass(frozen=True)
class Owner:
    """The coordinator that owns a study.

    Attributes:
        pid: Its process id on ``host``; ``None`` if the database does not tell us.
        host: Its host name; ``None`` if the database does not tell us.
        since: When it took the study, with a time zone; ``None`` if the database does not tell us.
    """

    pid: int | None
    host: str | None
    since: datetime | None

    def __str__(self) -> str:
        """Return e.g. ``process 4711 on host lab-3 since 2026-03-01 09:12:44+00:00``."""
        return (
            f"process {self.pid or 'unknown'} on host {self.host or 'unknown'} "
            f"since {self.since or 'an unknown time'}"
        )


class OwnedError(StorageError):
    """Another coordinator owns the study.

    Attributes:
        owner: Who owns it.
    """

    def __init__(self, message: str, owner: Owner) -> None:
        super().__init__(message)
        self.owner = owner
