"""What the commands share: exit codes, and errors as one message."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_STOPPED = 1
"""The study stopped short: too many failures, or a database that was away for too long."""

EXIT_BAD_INPUT = 2
"""Something that was given cannot be used."""

EXIT_INTERRUPTED = 130
"""Ctrl-C or SIGTERM; the same command goes on."""


def say(line: str) -> None:
    """Print a line that people should see at once, also in a pipe."""
    print(line, flush=True)


@contextmanager
def errors() -> Iterator[None]:
    """Turn errors that people can mend into one message and an exit code."""
    from hpo.errors import InputError, StudyStoppedError
    from storage import StorageError

    try:
        yield
    except (InputError, StorageError) as error:
        print(f"hpo: {error}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except StudyStoppedError as error:
        print(f"hpo: stopped: {error}", file=sys.stderr)
        raise SystemExit(EXIT_STOPPED) from None
    except KeyboardInterrupt:  # before a study runs; while it does, Ctrl-C has a meaning of its own
        print("hpo: interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn a failure of the database into one message, for commands that do not ride it out."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    from hpo.errors import InputError
    from storage import reason

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise InputError(f"the database failed: {reason(error)}") from error
