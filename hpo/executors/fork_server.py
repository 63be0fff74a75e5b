"""Imported by the fork server of the local executor, and by nothing else.

A SIGTERM to the whole process group, as service managers send it, must leave the fork server alone:
its workers count as dead without it, and it is for the coordinator to say when they end.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
