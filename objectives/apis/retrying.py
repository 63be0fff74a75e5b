"""What to try again, when, and how often: the one place that decides it.

The SDKs' own retries are off. They differ in what they try again and in how long they wait, say
nothing while they do, and cannot be told that an allowance is used up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from objectives.apis.provider import Answer, ApiError, Provider, RequestFailedError

WORTH_ANOTHER = frozenset({None, 408, 409, 429, 500, 502, 503, 504, 529})
"""Statuses that may pass; ``None`` is no answer at all."""

WRONG_KEY = frozenset({401, 403})


@dataclass(frozen=True)
class Patience:
    """How long to go on with one request.

    Attributes:
        tries: How often it is made at most.
        first: Seconds to wait after the first failure; twice as long after each further one.
        longest: The longest of these waits.
        asked: The longest wait that a server may ask for.
        sleep: Waits.
        jitter: Draws a number from 0 to 1, so that many programs do not come back all at once.
    """

    tries: int = 8
    first: float = 1.0
    longest: float = 60.0
    asked: float = 120.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random


def persist(
    ask: Callable[[], Answer],
    provider: Provider,
    hide: Callable[[str], str],
    say: Callable[[str], None],
    patience: Patience,
) -> Answer:
    """Make a request until it is answered, or until there is no point in going on.

    Args:
        ask: Makes it once.
        provider: Whom.
        hide: Takes the key out of a text.
        say: Takes a line for people before each wait.
        patience: How long to go on.

    Raises:
        ApiError: It was refused, or it failed too often.
    """
    for count in range(1, patience.tries + 1):
        try:
            return ask()
        except RequestFailedError as error:
            failed = error
        said = _said(failed, hide)
        if failed.status in WRONG_KEY:
            raise ApiError(
                f"{provider.title} does not accept the key in {provider.key_variable} (HTTP "
                f"{failed.status}): set that variable to a valid key that may use this model."
            )
        if failed.spent or failed.status not in WORTH_ANOTHER:
            raise ApiError(f"{provider.title} refused the request: {said}.")
        if failed.wait is not None and failed.wait > patience.asked:
            raise ApiError(
                f"{provider.title} asks to wait for {failed.wait:,.0f} s ({said}); run the same "
                "command later: what it has answered is kept."
            )
        if count < patience.tries:
            seconds = _wait(failed, count, patience)
            say(f"{provider.title}: {said}; trying again in {seconds:.1f} s")
            patience.sleep(seconds)
    raise ApiError(
        f"{provider.title} failed {patience.tries} times in a row, the last time with: {said}. Run "
        "the same command later: what it has answered is kept."
    )


def _wait(failed: RequestFailedError, count: int, patience: Patience) -> float:
    if failed.wait is not None:  # never less than was asked for
        return failed.wait * (1 + 0.1 * patience.jitter())
    doubled = min(patience.first * 2.0 ** (count - 1), patience.longest)
    return doubled * (0.5 + 0.5 * patience.jitter())


def _said(failed: RequestFailedError, hide: Callable[[str], str]) -> str:
    status = "no answer" if failed.status is None else f"HTTP {failed.status}"
    text = " ".join(hide(str(failed)).split()).rstrip(".")
    return f"{status}, {text[:300]}" if text else status
