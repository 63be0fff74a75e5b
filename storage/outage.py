"""Whether a database is away for now, or refuses what it was asked."""

from __future__ import annotations

from storage.explain import driver_error

_READ_ONLY = "25006"
"""PostgreSQL's code for a write to a standby: what a failover looks like from the old primary."""


def is_outage(error: BaseException) -> bool:
    """Return whether ``error`` says that the database cannot be used now, and may be later.

    True for a server that is gone, starting or full, a broken connection, a SQLite file that is
    locked or unreadable; False for a statement that it would refuse at any time.

    Args:
        error: What Optuna or SQLAlchemy raised.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if not isinstance(error, StorageInternalError | SQLAlchemyError):
        return False
    cause = driver_error(error)
    module = type(cause).__module__.partition(".")[0]
    names = {kind.__name__ for kind in type(cause).__mro__}
    if module == "sqlite3":
        return "OperationalError" in names
    if module == "psycopg2":
        # libpq reports some broken connections as a bare DatabaseError.
        return (
            bool(names & {"OperationalError", "InterfaceError"})
            or type(cause).__name__ == "DatabaseError"
            or getattr(cause, "pgcode", None) == _READ_ONLY
        )
    # SQLAlchemy's own: no connection was free, or one broke below it.
    return bool(names & {"TimeoutError", "DisconnectionError", "PendingRollbackError"})


def reason(error: BaseException) -> str:
    """Return in one line what the database, or the driver, said."""
    cause = driver_error(error)
    if type(cause).__name__ == "PendingRollbackError":
        return "the connection broke in the middle of a transaction"
    return " ".join(str(cause).split())
