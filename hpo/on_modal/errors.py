"""What Modal refuses, as messages for people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import modal
from modal.exception import AuthError, NotFoundError

from hpo.errors import InputError
from hpo.executors.modal import UNREACHABLE


@contextlib.contextmanager
def modal_errors() -> Iterator[None]:
    """Turn what Modal refuses into a message.

    Raises:
        InputError: Modal refused, or cannot be reached.
    """
    try:
        yield
    except InputError:
        raise
    except AuthError as error:
        raise InputError(
            f"Modal refuses the token ({error}); get a new one with `modal token new`."
        ) from error
    except NotFoundError as error:
        raise InputError(f"Modal has no such thing: {error}{_way_out(str(error))}") from error
    except UNREACHABLE as error:
        raise InputError(
            f"Modal cannot be reached: {str(error) or type(error).__name__}; try again later, or "
            "run here: --executor local."
        ) from error
    except modal.exception.Error as error:
        raise InputError(f"Modal refuses: {str(error) or type(error).__name__}") from error


def _way_out(said: str) -> str:
    if "ecret" in said:
        return " Make it with `modal secret create NAME KEY=VALUE`, or leave --secret out."
    return ""
