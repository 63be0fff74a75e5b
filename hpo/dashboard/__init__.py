"""Watching studies: optuna-dashboard on the study's own storage, safe to leave open and fast.

``optuna_dashboard`` itself makes every page and every answer. What is here stands around it: a
server with rules about who may ask and who may write (``server``, ``guards``), a snapshot of the
database in which the best trial is the best feasible one (``database``, ``snapshot``), and answers
that are put together once for each state of the database (``answers``, ``study_answer``).
"""

from __future__ import annotations

from hpo.dashboard.server import PASSWORD_VARIABLE, Dashboard, open_dashboard, serve

__all__ = ["PASSWORD_VARIABLE", "Dashboard", "open_dashboard", "serve"]
