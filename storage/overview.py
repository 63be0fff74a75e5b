"""What a database holds, a line a study: a few questions to it, however many trials there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from storage.view_sql import best_query

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_COUNTS = """
    SELECT study_id, state, COUNT(*) AS trials, MAX(datetime_start) AS started,
      MAX(datetime_complete) AS completed
    FROM trials GROUP BY study_id, state
"""


@dataclass(frozen=True)
class StudyOverview:
    """Where a study stands.

    Attributes:
        name: Its name.
        directions: ``minimize`` or ``maximize``, once for each value.
        user_attrs: Its user attributes.
        states: How many trials it has, by the name of their state (``COMPLETE``).
        best: Value and number of the best feasible completed trial; ``None`` if there is none, or
            several directions.
        active: When a trial was last started or ended, local time; ``None`` without one.
    """

    name: str
    directions: tuple[str, ...]
    user_attrs: Mapping[str, Any]
    states: Mapping[str, int] = field(default_factory=dict)
    best: tuple[float, int] | None = None
    active: datetime | None = None


def study_overviews(storage: RDBStorage) -> list[StudyOverview]:
    """Return an overview of every study in a database, in the order in which they were made."""
    states: dict[int, dict[str, int]] = {}
    times: dict[int, list[datetime]] = {}
    with storage.engine.connect() as connection:
        for row in connection.exec_driver_sql(_COUNTS):
            states.setdefault(row.study_id, {})[row.state] = row.trials
            times.setdefault(row.study_id, []).extend(
                # SQLite has no type for times
                each if isinstance(each, datetime) else datetime.fromisoformat(each)
                for each in (row.started, row.completed)
                if each is not None
            )
        best = {
            row.study_id: (float(row.value), int(row.number))
            for row in connection.exec_driver_sql(best_query(connection.dialect.name))
        }
    return [
        StudyOverview(
            name=study.study_name,
            directions=tuple(direction.name.lower() for direction in study.directions),
            user_attrs=study.user_attrs,
            states=states.get(study._study_id, {}),
            best=best.get(study._study_id),
            active=max(times.get(study._study_id, []), default=None),
        )
        for study in storage.get_all_studies()
    ]
