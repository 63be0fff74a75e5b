"""Opening the database of a study, or saying exactly why it cannot be opened.

Optuna's ``RDBStorage`` opens whatever it is given: it waits for ever on a silent host, makes tables
in somebody else's database, and reports the rest as tracebacks of three libraries. So the address
is read, the place is looked at, and only then Optuna is let in, with settings for one coordinator.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from storage.address import (
    Database,
    PostgresAddress,
    SqliteAddress,
    parse_database,
    shown_url,
)
from storage.errors import StorageError
from storage.explain import explain, is_creation_race
from storage.sqlite import BUSY_TIMEOUT_S, WalConnection, check_file

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Connection

CONNECT_TIMEOUT_S = 5
"""How long a PostgreSQL server may take to answer, for each address of its host, in seconds."""

_FIRST_OPEN_TRIES = 6

# A few columns that every version of Optuna has had in these tables: enough to know another
# program's tables of the same name, and to know an older schema of Optuna's as Optuna's.
_SIGNATURE = {
    "studies": {"study_id", "study_name"},
    "trials": {"trial_id", "study_id", "state"},
    "trial_params": {"param_id", "trial_id", "param_name", "param_value", "distribution_json"},
    "trial_values": {"trial_id", "value"},
    "trial_user_attributes": {"trial_id", "key", "value_json"},
    "trial_system_attributes": {"trial_id", "key", "value_json"},
    "trial_intermediate_values": {"trial_id", "step", "intermediate_value"},
    "trial_heartbeats": {"trial_id", "heartbeat"},
    "study_directions": {"study_id", "direction"},
    "study_user_attributes": {"study_id", "key", "value_json"},
    "study_system_attributes": {"study_id", "key", "value_json"},
    "version_info": {"schema_version", "library_version"},
    "alembic_version": {"version_num"},
}


def open_storage(url: str) -> RDBStorage:
    """Open the database at ``url``, making Optuna's tables if it has none.

    SQLite gets WAL with ``synchronous=NORMAL`` (a killed process loses nothing; a power failure may
    lose the last commits but never corrupts) and a busy timeout of 30 s; foreign keys are left as
    Optuna leaves them there, unenforced. PostgreSQL gets psycopg2, a small pool whose connections
    are tested before use, a connect timeout, TCP keepalives and an application name; options in the
    URL win over these. Optuna's INFO messages are silenced (WARNING and above stay).

    Args:
        url: ``sqlite:///file.db``, ``sqlite:////absolute/file.db``, ``postgresql://…`` or
            ``postgres://…``.

    Returns:
        Optuna's own storage; plain Optuna reads the same database at its ``.url``.

    Raises:
        StorageError: The URL is wrong, the database cannot be reached or written, or what is in it
            is not of this Optuna's schema. Nothing was created then.
    """
    address = parse_database(url)
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    if optuna.logging.get_verbosity() == optuna.logging.INFO:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(address, SqliteAddress):
        check_file(address.path)
    # Two coordinators may make the tables of a new database at the same moment. One of them then
    # fails half-way and only has to look again.
    for attempt in range(_FIRST_OPEN_TRIES):
        made = False
        try:
            made = _is_made(address)
            return _construct(address, made)
        except (SQLAlchemyError, StorageInternalError) as error:
            if made or attempt == _FIRST_OPEN_TRIES - 1 or not is_creation_race(error):
                raise explain(address, error) from error
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def connect_options(address: PostgresAddress, purpose: str) -> dict[str, Any]:
    """Return libpq options for a connection that ``purpose`` describes, less those in the URL."""
    wanted = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": purpose,
        # A server that vanished is noticed after half a minute instead of two hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": 30_000,
    }
    return {name: value for name, value in wanted.items() if name not in address.url.query}


def _construct(address: Database, made: bool) -> RDBStorage:
    """Let Optuna open ``address``; ``made`` says that its tables are there already."""
    from optuna.storages import RDBStorage

    if isinstance(address, SqliteAddress):
        options: dict[str, Any] = {
            "connect_args": {"timeout": BUSY_TIMEOUT_S, "factory": WalConnection}
        }
    else:
        options = {
            "connect_args": connect_options(address, f"hpo coordinator {os.getpid()}"),
            "pool_pre_ping": True,
            "pool_size": 2,
            "max_overflow": 8,
        }
    full = address.url.render_as_string(hide_password=False)
    storage = RDBStorage(
        # Optuna fills in {SCHEMA_VERSION} by str.format, which any other brace would break.
        full.replace("{", "{{").replace("}", "}}"),
        engine_kwargs=options,
        skip_compatibility_check=True,
        skip_table_creation=made,
    )
    _check_version(address, storage)
    return storage


def _check_version(address: Database, storage: RDBStorage) -> None:
    """Refuse a schema of another Optuna."""
    import optuna

    current, head = storage.get_current_version(), storage.get_head_version()
    if current == head:
        return
    known = current in storage.get_all_versions()
    storage.engine.dispose()
    shown = shown_url(address)
    if known:
        raise StorageError(
            f"The database {shown} has an older schema of Optuna ({current}; Optuna "
            f"{optuna.__version__} needs {head}). Make a copy of it, then run: "
            f"optuna storage upgrade --storage {shown}"
        )
    raise StorageError(
        f"The database {shown} has a schema that Optuna {optuna.__version__} does not know "
        f"({current}; it needs {head}): a newer Optuna or another program made it. Run "
        "pip install --upgrade optuna, or use another database."
    )


def _is_made(address: Database) -> bool:
    """Look into the database and return whether Optuna's tables are complete.

    Raises:
        StorageError: It holds other tables of these names, or may not be written.
    """
    from sqlalchemy import create_engine, inspect, text
    from sqlalchemy.pool import NullPool

    if isinstance(address, SqliteAddress):
        if not address.path.exists() or address.path.stat().st_size == 0:
            return False
        options: dict[str, Any] = {"timeout": BUSY_TIMEOUT_S}
    else:
        options = connect_options(address, f"hpo coordinator {os.getpid()}")
    engine = create_engine(address.url, connect_args=options, poolclass=NullPool)
    with engine.connect() as connection:
        inspector = inspect(connection)
        tables = set(inspector.get_table_names()) & _SIGNATURE.keys()
        for table in sorted(tables):
            columns = {column["name"] for column in inspector.get_columns(table)}
            missing = _SIGNATURE[table] - columns
            if missing:
                raise StorageError(
                    f"The database {shown_url(address)} holds a table {table!r} that is not "
                    f"Optuna's: it has no column {sorted(missing)[0]!r}. Use a database of its own "
                    "for hpo."
                )
        if "alembic_version" in tables and "studies" not in tables:
            raise StorageError(
                f"The database {shown_url(address)} holds another program's table "
                "'alembic_version', which Optuna needs for itself. Use a database of its own for "
                "hpo."
            )
        if isinstance(address, PostgresAddress):
            _check_writable(address, connection, tables)
        # Optuna writes a row into the one and then into the other after it has made every table;
        # whoever looks in between must not take a half-made database for one of another version.
        return all(
            table in tables
            and connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() > 0
            for table in ("version_info", "alembic_version")
        )


def _check_writable(address: PostgresAddress, connection: Connection, tables: set[str]) -> None:
    """Refuse a PostgreSQL database in which this role cannot write trials."""
    from sqlalchemy import text

    if connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on":
        raise StorageError(
            f"The database {shown_url(address)} is read-only (a standby server, or "
            "default_transaction_read_only is set). Name the primary server."
        )
    role = connection.execute(text("SELECT current_user")).scalar_one()
    if "trials" not in tables:
        return
    question = text("SELECT has_table_privilege('trials', :right)")
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        if not connection.execute(question, {"right": right}).scalar_one():
            raise StorageError(
                f"The role {role!r} lacks the right to {right} in Optuna's tables in "
                f"{shown_url(address)}. As their owner run: "
                f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"; '
                f'GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO "{role}";'
            )
