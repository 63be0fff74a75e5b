"""Errors that are the caller's to mend: shown as one message, never as a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """A setting, a file or an objective that cannot be used; the text says why and what to do."""


class StudyStoppedError(RuntimeError):
    """The study ended before its trials were done, for a reason that going on would not mend."""
