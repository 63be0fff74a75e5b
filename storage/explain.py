"""What an error from SQLite or PostgreSQL means, and what to do about it.

libpq reports a failed connection as English text without a code, so the text is searched for known
phrases; one that is not known is passed on in its own words rather than guessed at.
"""

from __future__ import annotations

from storage.address import Database, PostgresAddress, SqliteAddress, shown_url
from storage.errors import StorageError

_RACE_CODES = {"42P07", "42710", "23505"}  # duplicate table, duplicate object, unique violation

# (phrase in lower case, what it means, the way out); the first that is found speaks. The names in
# braces come from the URL.
_POSTGRES = (
    (
        "could not translate host name",
        "the host {host!r} is not known",
        "Check its spelling and the network.",
    ),
    (
        "connection refused",
        "nothing listens at {where}",
        "Start PostgreSQL there, or correct host and port.",
    ),
    (
        "timeout expired",
        "{where} did not answer in time",
        "Check host, port and firewall (connect_timeout=20 in the URL waits longer).",
    ),
    ("no route to host", "{where} cannot be reached", "Check host, network and firewall."),
    ("network is unreachable", "{where} cannot be reached", "Check host and network."),
    (
        "no such file or directory",
        "there is no socket at {where}",
        "Start PostgreSQL, or write its host into the URL.",
    ),
    (
        "password authentication failed",
        "the password of the role {user!r} is wrong, or there is no such role",
        "Correct the URL, or create the role: createuser --pwprompt {user}",
    ),
    (
        "no password supplied",
        "the role {user!r} needs a password and the URL has none",
        "Write postgresql://{user}:password@…, or set PGPASSWORD or ~/.pgpass.",
    ),
    (
        "peer authentication failed",
        "the server lets the role {user!r} in only from an account of that name",
        "Write @localhost and a password into the URL.",
    ),
    (
        "no pg_hba.conf entry",
        "the server's pg_hba.conf does not let the role {user!r} in from this machine",
        "Ask its administrator for an entry, or try sslmode=require in the URL.",
    ),
    ("role ", "there is no role {user!r}", "Create it: createuser --pwprompt {user}"),
    (
        "permission denied for database",
        "the role {user!r} may not connect to the database {database!r}",
        'As its owner run: GRANT CONNECT ON DATABASE "{database}" TO "{user}";',
    ),
    (
        "database ",
        "there is no database {database!r}",
        "Create it: createdb {database}",
    ),
    (
        "permission denied for schema",
        "the role {user!r} may not make tables",
        'As the owner of the database run: GRANT CREATE ON SCHEMA public TO "{user}";',
    ),
    (
        "permission denied",
        "the role {user!r} lacks a right",
        'Make it the owner: ALTER DATABASE "{database}" OWNER TO "{user}";',
    ),
    ("too many c", "the server has no connection left", "Close some, or raise max_connections."),
    ("connection slots", "the server has no connection left", "Close some, or raise the limit."),
    ("starting up", "the server is still starting", "Try again in a moment."),
    ("shutting down", "the server is shutting down", "Start it, and try again."),
    ("invalid connection option", "the URL has an option that libpq does not know", "Remove it."),
    ("invalid", "the URL has an option with a wrong value", "Correct it."),
    ("server does not support ssl", "the server does not speak TLS", "Remove sslmode."),
)
# Phrases that are too short to stand alone count only together with this one.
_MISSING = "does not exist"


def explain(address: Database, error: Exception) -> StorageError:
    """Return the :class:`StorageError` that says what ``error`` from a database means."""
    cause = driver_error(error)
    said = " ".join(str(cause).split())
    if isinstance(address, SqliteAddress):
        return StorageError(_explain_sqlite(address, said))
    return StorageError(_explain_postgres(address, said))


def is_creation_race(error: Exception) -> bool:
    """Return whether ``error`` says that somebody else has just made what was to be made."""
    cause = driver_error(error)
    code = getattr(cause, "pgcode", None)
    return code in _RACE_CODES or any(
        phrase in str(cause) for phrase in ("already exists", "UNIQUE constraint failed")
    )


def driver_error(error: BaseException) -> BaseException:
    """Return the error of sqlite3 or psycopg2 below the wrappers of SQLAlchemy and Optuna."""
    while (below := getattr(error, "orig", None) or error.__cause__) is not None:
        error = below
    return error


def _explain_sqlite(address: SqliteAddress, said: str) -> str:
    """Say what SQLite's own words mean."""
    name = str(address.path)
    if "not a database" in said or "malformed" in said:
        return f"The SQLite file {name!r} is damaged or encrypted ({said}). Name another file."
    if "locked" in said:
        return (
            f"The SQLite file {name!r} is being written by another program ({said}). "
            "Close it and try again."
        )
    if "readonly" in said or "unable to open" in said:
        return f"The SQLite file {name!r} cannot be written here ({said}). Name a file elsewhere."
    if "full" in said:
        return f"There is no room left for the SQLite file {name!r} ({said}). Make some."
    return f"The SQLite file {name!r} cannot be used: {said}"


def _explain_postgres(address: PostgresAddress, said: str) -> str:
    """Say what the words of libpq or of the server mean, without a password in them."""
    url = address.url
    words = {
        "host": url.host,
        "where": address.where,
        "user": url.username or url.query.get("user") or "of this account",
        "database": url.database,
    }
    lower = said.lower()
    start = f"The database {shown_url(address)} cannot be used: "
    for phrase, meaning, way_out in _POSTGRES:
        if phrase in lower and (not phrase.endswith(" ") or _MISSING in lower):
            return f"{start}{meaning.format(**words)}. {way_out.format(**words)}"
    # The password cannot be in these words unless a library repeats its input; make sure.
    secret = str(url.password or "")
    if secret and secret not in (url.username, url.host, url.database):
        said = said.replace(secret, "***")
    return f"{start}{said}"
