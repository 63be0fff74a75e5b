"""What the views say, in the words of SQLite (3.38 or later, for ``->``) and of PostgreSQL.

A view that raises for one trial raises for all, and trials hold what objectives put there. So no
attribute is taken for what it should be: JSON is mended where Python writes what is none (``NaN``)
or what PostgreSQL refuses (``\\u0000``), and a value of another type is an empty column.
"""

from __future__ import annotations

from dataclasses import dataclass

METRICS = (
    "roc_auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mcc",
    "threshold",
)
"""Metrics with a column of their own; it is empty where a trial has no such number."""


@dataclass(frozen=True)
class Dialect:
    """What the two databases write differently. ``doc`` is a JSON document that was mended.

    Attributes:
        mended: The column ``value_json`` or ``distribution_json``, named ``{column}``, as JSON.
        params: The parameters of trial ``t`` as a JSON object.
        metric: The number called ``{name}`` in ``metrics.doc``.
        cause: The cause of the last of ``attempts.doc``.
        attempts: How many attempts there are.
        dollars: What they cost together; empty if none of them says so.
        model: ``model.doc`` as text.
        seconds: How long trial ``t`` took.
        infinity: The number.
        violated: Tells constraints that are broken, one (``constraints:NAME``) or a list of them
            (``constraints``, as Optuna wrote before version 5).
    """

    mended: str
    params: str
    metric: str
    cause: str
    attempts: str
    dollars: str
    model: str
    seconds: str
    infinity: str
    violated: str


def _without_nan(text: str) -> str:
    """Return SQLite's ``text`` with null for every number that JSON lacks.

    SQLite has no regular expressions; Python's json puts a blank or a bracket before a number. So
    only a string that reads like ``a, NaN`` in a document with such a number is changed, too.
    """
    for number in ("-Infinity", "Infinity", "NaN"):
        for before in " [":
            text = f"replace({text}, '{before}{number}', '{before}null')"
    return text


_SQLITE = Dialect(
    mended=f"""
      CASE WHEN json_valid({{column}}) THEN {{column}}
        WHEN json_valid({_without_nan("{column}")}) THEN {_without_nan("{column}")} END""",
    # SQLite writes numbers into JSON with 15 digits; with 17 none is lost, but 0.1 has a tail.
    params="""(
    SELECT json_group_object(p.param_name, json(
      CASE substr(json_extract(p.doc, '$.name'), 1, 3)
        WHEN 'Cat' THEN
          p.doc -> ('$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
        WHEN 'Int' THEN CAST(p.param_value AS INTEGER)
        ELSE CASE p.param_value
          WHEN CAST(printf('%!.15g', p.param_value) AS REAL) THEN printf('%!.15g', p.param_value)
          WHEN CAST(printf('%!.16g', p.param_value) AS REAL) THEN printf('%!.16g', p.param_value)
          ELSE printf('%!.17g', p.param_value)
        END
      END))
    FROM (
      SELECT param_name, param_value, {distribution} AS doc
      FROM trial_params WHERE trial_id = t.trial_id
    ) p
  )""",
    metric="""
  CASE WHEN json_type(metrics.doc, '$.{name}') IN ('integer', 'real')
    THEN json_extract(metrics.doc, '$.{name}') END""",
    cause="CASE json_type(attempts.doc) WHEN 'array' THEN attempts.doc ->> '$[#-1].cause' END",
    attempts="CASE json_type(attempts.doc) WHEN 'array' THEN json_array_length(attempts.doc) END",
    dollars="""(
    SELECT sum(CASE json_type(attempts.doc, record.fullkey || '.dollars')
      WHEN 'integer' THEN json_extract(attempts.doc, record.fullkey || '.dollars') * 1.0
      WHEN 'real' THEN json_extract(attempts.doc, record.fullkey || '.dollars') END)
    FROM json_each(CASE json_type(attempts.doc) WHEN 'array' THEN attempts.doc END) record
  )""",
    model="json_extract(model.doc, '$')",
    seconds="(julianday(t.datetime_complete) - julianday(t.datetime_start)) * 86400.0",
    infinity="9e999",
    violated="""
      SELECT 1 FROM json_each(replace(replace(c.value_json, 'Infinity', '9e999'), 'NaN', 'null'))
      WHERE value > 0""",
)

# A backslash is spelled out first, so that what then reads \u0000 is no text about it. Halves of
# surrogate pairs come from file names that are not UTF-8.
_POSTGRESQL = Dialect(
    mended=r"""
      CASE WHEN {column} ~ 'NaN|Infinity|\\u' THEN
        regexp_replace(
          regexp_replace(
            replace(replace({column}, '\\', '\u005c'), '\u0000', '\ufffd'),
            '\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f]..', '\\ufffd', 'g'),
          '(^|[\[ ])(NaN|-?Infinity)(?=[],}}]|$)', '\1null', 'g')
      ELSE {column} END::jsonb""",
    params="""COALESCE((
    SELECT jsonb_object_agg(p.param_name,
      CASE substr(p.doc ->> 'name', 1, 3)
        WHEN 'Cat' THEN p.doc -> 'attributes' -> 'choices' -> p.param_value::integer
        WHEN 'Int' THEN to_jsonb(p.param_value::bigint)
        ELSE to_jsonb(p.param_value)
      END)
    FROM (
      SELECT param_name, param_value, {distribution} AS doc
      FROM trial_params WHERE trial_id = t.trial_id
    ) p
  ), jsonb_build_object())""",
    metric="""
  CASE jsonb_typeof(metrics.doc -> '{name}') WHEN 'number'
    THEN (metrics.doc ->> '{name}')::double precision END""",
    cause="attempts.doc -> -1 ->> 'cause'",
    attempts="""
  CASE jsonb_typeof(attempts.doc) WHEN 'array' THEN jsonb_array_length(attempts.doc) END""",
    dollars="""(
    SELECT sum(CASE jsonb_typeof(record -> 'dollars') WHEN 'number'
      THEN (record ->> 'dollars')::double precision END)
    FROM jsonb_array_elements(
      CASE jsonb_typeof(attempts.doc) WHEN 'array' THEN attempts.doc END) record
  )""",
    model="model.doc #>> array[]::text[]",
    seconds="EXTRACT(EPOCH FROM t.datetime_complete - t.datetime_start)::double precision",
    infinity="'Infinity'::double precision",
    # Above zero is what has no minus and a digit that is none before its exponent.
    violated=r"SELECT 1 WHERE c.value_json ~ '(^|[\[ ])(Infinity|[0-9.]*[1-9])'",
)

_DIALECTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}

_VALUE = """
  CASE v.value_type
    WHEN 'INF_POS' THEN {infinity} WHEN 'INF_NEG' THEN -{infinity} ELSE v.value
  END"""

_FEASIBLE = """
  NOT EXISTS (
    SELECT 1 FROM trial_system_attributes c
    WHERE c.trial_id = t.trial_id
      AND (c.key = 'constraints' OR substr(c.key, 1, 12) = 'constraints:')
      AND EXISTS ({violated})
  )"""

_ATTRIBUTE = """
LEFT JOIN (
  SELECT trial_id, {mended} AS doc
  FROM trial_user_attributes WHERE key = '{key}'
) {key} ON {key}.trial_id = t.trial_id"""

# New columns go to the end: then PostgreSQL can replace the view where it stands.
_TRIALS = """
SELECT
  s.study_name AS study,
  t.number AS number,
  t.state AS state,
  {value} AS value,
  {params} AS params,
  {metrics},
  {cause} AS cause,
  {attempts} AS attempts,
  {seconds} AS seconds,
  {model} AS model,
  t.datetime_start AS started,
  t.datetime_complete AS completed,
  {feasible} AS feasible,
  t.trial_id AS trial_id,
  {dollars} AS dollars
FROM trials t
JOIN studies s ON s.study_id = t.study_id
LEFT JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
{attributes}"""

_BEST = """
SELECT trial_id, study_id, number, value FROM (
  SELECT
    t.trial_id,
    t.study_id,
    t.number,
    {value} AS value,
    ROW_NUMBER() OVER (
      PARTITION BY t.study_id
      ORDER BY
        CASE WHEN w.number = t.number THEN 0 ELSE 1 END,
        CASE d.direction WHEN 'MAXIMIZE' THEN -{value} ELSE {value} END, t.number
    ) AS place
  FROM trials t
  JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
  JOIN study_directions d ON d.study_id = t.study_id AND d.objective = 0
  LEFT JOIN (
    SELECT metrics.study_id, {winner} AS number
    FROM (
      SELECT study_id, {mended} AS doc FROM study_user_attributes WHERE key = 'winner'
    ) metrics
  ) w ON w.study_id = t.study_id
  WHERE t.state = 'COMPLETE'
    AND NOT EXISTS (
      SELECT 1 FROM study_directions o WHERE o.study_id = t.study_id AND o.objective > 0
    )
    AND {feasible}
) ranked WHERE place = 1"""


def trials_query(dialect: str) -> str:
    """Return the query behind ``hpo_trials`` for ``sqlite`` or ``postgresql``."""
    words = _DIALECTS[dialect]
    mended = words.mended.format(column="value_json")
    return _TRIALS.format(
        **vars(words)
        | _shared(words)
        | {
            "params": words.params.format(
                distribution=words.mended.format(column="distribution_json")
            ),
            "metrics": ",".join(
                f"{words.metric.format(name=name)} AS {name}" for name in METRICS
            ).strip(),
            "attributes": "".join(
                _ATTRIBUTE.format(key=key, mended=mended)
                for key in ("metrics", "attempts", "model")
            ).strip(),
        }
    )


def best_query(dialect: str) -> str:
    """Return the query for trial_id, study_id, number and value of each study's best trial.

    That is the trial that won the study's finals (the study's user attribute ``winner`` names it as
    ``trial``), else the best feasible completed trial of a study of one direction, the first of
    equals; studies that have none are left out.
    """
    words = _DIALECTS[dialect]
    winner = words.metric.format(name="trial").strip()
    mended = words.mended.format(column="value_json")
    return _BEST.format(**_shared(words), winner=winner, mended=mended)


def _shared(words: Dialect) -> dict[str, str]:
    return {
        "value": _VALUE.format(infinity=words.infinity).strip(),
        "feasible": _FEASIBLE.format(violated=words.violated).strip(),
    }
