"""Two views for people who ask the database itself: ``hpo_trials`` and ``hpo_best``.

Optuna stores a categorical as the index of its choice and spreads a trial over six tables. The
views put a trial in a row, with parameters as they were chosen, so that ``select * from hpo_best``
answers "which parameters won?" in psql or sqlite3, without Python.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from storage.errors import StorageError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Connection

METRICS = (
    "roc_auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mcc",
    "threshold",
)
"""Metrics with a column of their own; it is empty where a trial has no such metric."""

# What SQLite (3.38 or later, for ``->``) and PostgreSQL write differently.
_DIALECTS = {
    "sqlite": {
        "params": """
            json_group_object(p.param_name, json(
              CASE json_extract(p.distribution_json, '$.name')
                WHEN 'CategoricalDistribution' THEN
                  p.distribution_json
                    -> ('$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
                WHEN 'IntDistribution' THEN CAST(p.param_value AS INTEGER)
                ELSE p.param_value
              END))""",
        "metric": "json_extract(metrics.value_json, '$.{name}')",
        "cause": "json_extract(attempts.value_json, '$[#-1].cause')",
        "attempts": "json_array_length(attempts.value_json)",
        "model": "json_extract(model.value_json, '$')",
        "seconds": "(julianday(t.datetime_complete) - julianday(t.datetime_start)) * 86400.0",
        "infinity": "9e999",
    },
    "postgresql": {
        "params": """
            jsonb_object_agg(p.param_name,
              CASE p.distribution_json::jsonb ->> 'name'
                WHEN 'CategoricalDistribution' THEN
                  p.distribution_json::jsonb
                    -> 'attributes' -> 'choices' -> p.param_value::integer
                WHEN 'IntDistribution' THEN to_jsonb(p.param_value::bigint)
                ELSE to_jsonb(p.param_value)
              END)""",
        "metric": "(metrics.value_json::jsonb ->> '{name}')::double precision",
        "cause": "attempts.value_json::jsonb -> -1 ->> 'cause'",
        "attempts": "jsonb_array_length(attempts.value_json::jsonb)",
        "model": "model.value_json::jsonb #>> array[]::text[]",
        "seconds": """
            EXTRACT(EPOCH FROM t.datetime_complete - t.datetime_start)::double precision""",
        "infinity": "'Infinity'::double precision",
    },
}

_TRIALS = """
CREATE VIEW hpo_trials AS
SELECT
  s.study_name AS study,
  t.number AS number,
  t.state AS state,
  CASE v.value_type
    WHEN 'INF_POS' THEN {infinity} WHEN 'INF_NEG' THEN -{infinity} ELSE v.value
  END AS value,
  (SELECT {params} FROM trial_params p WHERE p.trial_id = t.trial_id) AS params,
  {metrics},
  {cause} AS cause,
  {attempts} AS attempts,
  {seconds} AS seconds,
  {model} AS model,
  t.datetime_start AS started,
  t.datetime_complete AS completed,
  NOT EXISTS (
    SELECT 1 FROM trial_system_attributes c
    WHERE c.trial_id = t.trial_id AND substr(c.key, 1, 12) = 'constraints:'
      AND CAST(c.value_json AS DOUBLE PRECISION) > 0
  ) AS feasible
FROM trials t
JOIN studies s ON s.study_id = t.study_id
LEFT JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
LEFT JOIN trial_user_attributes metrics
  ON metrics.trial_id = t.trial_id AND metrics.key = 'metrics'
LEFT JOIN trial_user_attributes attempts
  ON attempts.trial_id = t.trial_id AND attempts.key = 'attempts'
LEFT JOIN trial_user_attributes model
  ON model.trial_id = t.trial_id AND model.key = 'model'
"""

_BEST = """
CREATE VIEW hpo_best AS
SELECT ranked.* FROM (
  SELECT
    h.*,
    ROW_NUMBER() OVER (
      PARTITION BY h.study
      ORDER BY CASE d.direction WHEN 'MAXIMIZE' THEN -h.value ELSE h.value END, h.number
    ) AS rank
  FROM hpo_trials h
  JOIN studies s ON s.study_name = h.study
  JOIN study_directions d ON d.study_id = s.study_id
  WHERE h.state = 'COMPLETE' AND h.feasible
    AND (SELECT COUNT(*) FROM study_directions o WHERE o.study_id = s.study_id) = 1
) ranked
WHERE ranked.rank = 1
"""


def create_views(storage: RDBStorage) -> None:
    """Make or renew the views ``hpo_trials`` and ``hpo_best`` in a storage's database.

    ``hpo_trials`` has a row a trial: study, number, state, value (the first of several), params (a
    JSON object), metrics, cause and number of attempts, seconds, model, times, and whether it is
    feasible. ``hpo_best`` has the best feasible completed trial of every study of one direction.
    Nothing is touched if both are there as this version writes them.

    Raises:
        StorageError: The role may not make views.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with storage.engine.begin() as connection:
            statements = _statements(connection.dialect.name)
            if _known(connection) != _mark(statements):
                _renew(connection, statements)
    except SQLAlchemyError as error:
        raise StorageError(
            f"The views hpo_trials and hpo_best cannot be made: {getattr(error, 'orig', error)}. "
            "Let the role create views in this database (GRANT CREATE ON SCHEMA public), or use "
            "another database."
        ) from error


def _statements(dialect: str) -> list[str]:
    """Return the statements that make the views, in their order."""
    words = _DIALECTS[dialect]
    metrics = ",\n  ".join(f"{words['metric'].format(name=name)} AS {name}" for name in METRICS)
    return [_TRIALS.format(**{**words, "metrics": metrics}), _BEST]


def _mark(statements: list[str]) -> str:
    """Return what tells these statements from those of another version."""
    return hashlib.sha256("".join(statements).encode()).hexdigest()[:16]


def _known(connection: Connection) -> str | None:
    """Return the mark of the views that are there; ``None`` if one is missing."""
    if connection.dialect.name == "postgresql":
        found: str | None = connection.exec_driver_sql(
            "SELECT obj_description(to_regclass('hpo_best'), 'pg_class')"
        ).scalar()
        return found
    rows = connection.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE name IN ('hpo_trials', 'hpo_best') ORDER BY rowid"
    ).scalars()
    stored = list(rows)
    # SQLite keeps the statement as it was written, less the space around it.
    return _mark([f"\n{sql}\n" for sql in stored]) if len(stored) == 2 else None


def _renew(connection: Connection, statements: list[str]) -> None:
    for view in ("hpo_best", "hpo_trials"):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {view}")
    for statement in statements:
        connection.exec_driver_sql(statement)
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"COMMENT ON VIEW hpo_best IS '{_mark(statements)}'")
