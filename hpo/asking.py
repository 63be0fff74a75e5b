"""Asking somebody at a terminal whether they agree."""

from __future__ import annotations

import sys


def can_ask() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin.isatty()


def agrees(question: str) -> bool:
    """Ask; only a clear yes is one, and an end of the input is none."""
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")
