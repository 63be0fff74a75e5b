"""Calls on Modal: what is known of one, and asking how it stands, in whichever way that is said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import modal
from grpclib.exceptions import StreamTerminatedError
from modal.exception import (
    AuthError,
    FunctionTimeoutError,
    InputCancellation,
    InternalError,
    NotFoundError,
    OutputExpiredError,
    ResourceExhaustedError,
    ServiceError,
)

from hpo.protocol import Cause, Suggested, Task

UNREACHABLE = (
    modal.exception.ConnectionError,
    InternalError,
    OSError,
    ResourceExhaustedError,
    ServiceError,
    StreamTerminatedError,
)
"""What Modal's client raises while Modal cannot be reached; waiting may mend it."""


@dataclass
class Call:
    """An attempt that runs, as far as is known.

    Attributes:
        task: The attempt.
        call: Its call; ``None`` while it is not known whether there is one.
        spawned: When it was spawned, in seconds since the epoch.
        own: Whether this executor spawned it.
        look: When it was last asked whether it has ended.
        doubt: Until when a call that may have been spawned may show.
        began: When it was first heard of.
        stop: When it was told to stop.
        why: What its end is called, whatever Modal says of it, once it was told to stop.
        cancelled: When it was cancelled.
        killed: Whether its container was ended, too.
        asked: The number of the last question for a parameter.
        answer: The answer to that.
    """

    task: Task
    call: modal.FunctionCall[str] | None
    spawned: float = field(default_factory=time.time)
    own: bool = True
    look: float = 0.0
    doubt: float = 0.0
    began: float | None = None
    stop: float | None = None
    why: tuple[Cause, str] | None = None
    cancelled: float | None = None
    killed: bool = False
    asked: int = -1
    answer: Suggested | None = None


@dataclass(frozen=True)
class NoResult:
    """A call has ended, and there is no result to be had.

    Attributes:
        why: In words.
        timeout: Whether it ran into Modal's own time limit.
        forgotten: Whether Modal knows nothing of how it ended, so that it may even run on.
    """

    why: str
    timeout: bool = False
    forgotten: bool = False

    @property
    def cause(self) -> Cause:
        """What it counts as."""
        if self.timeout:
            return Cause.TIMEOUT
        # Modal starts a preempted call again; should it not, only its words tell.
        return Cause.PREEMPTED if "preempt" in self.why.lower() else Cause.LOST


def ask(call: modal.FunctionCall[str], wait: float) -> str | NoResult | None:
    """Return what ``call`` returned, or that it has ended without; ``None`` while it runs.

    What trials call on Modal raises nothing but interruptions, so that no error of theirs can be
    taken for one of the way there.

    Args:
        call: The call.
        wait: How many seconds to wait for its end.

    Raises:
        AuthError: Modal refuses the token.
        UNREACHABLE: Modal cannot be reached.
    """
    try:
        return call.get(timeout=wait)
    except TimeoutError:
        return None
    except (AuthError, *UNREACHABLE):
        raise
    except FunctionTimeoutError:
        return NoResult("it ran into the time limit on Modal", timeout=True)
    except OutputExpiredError:
        return NoResult("its result has expired", forgotten=True)
    except NotFoundError:
        return NoResult("Modal does not know its call", forgotten=True)
    except (Exception, InputCancellation) as error:
        return NoResult(f"its call failed: {text_of(error)}")


def text_of(error: BaseException) -> str:
    """Return an error for people, also one that has nothing to say."""
    return str(error) or type(error).__name__
