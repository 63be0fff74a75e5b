"""Storage URLs: which are understood, and what to write instead of those that are not.

A URL is read here once, before anything is opened, because what lies below (SQLAlchemy, libpq,
SQLite) guesses: ``sqlite://hpo.db`` is a host name to it, an ``@`` inside a password becomes part
of the host, and a PostgreSQL URL without a database means the one named like the user.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from storage.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

EXAMPLES = "sqlite:///hpo.db or postgresql://user:password@host:5432/database"

_SECRET_OPTION = re.compile(
    r"(?P<name>\b(?:ssl)?password\s*=\s*)(?P<value>'(?:[^'\\]|\\.)*'|[^&\s]*)", re.IGNORECASE
)
_POSTGRES = ("postgresql", "postgres")
_UNSUPPORTED = {
    "mysql": "MySQL is not supported",
    "mariadb": "MariaDB is not supported",
    "mongodb": "MongoDB is not supported",
    "redis": "Redis is not supported",
    "rediss": "Redis is not supported",
    "journal": "Optuna's journal files are not supported",
    "file": "a file is named by a sqlite:/// address",
    "http": "a web address is not a database",
    "https": "a web address is not a database",
    "grpc": "Optuna's gRPC proxy is not supported",
}


@dataclass(frozen=True)
class SqliteAddress:
    """A SQLite file.

    Attributes:
        url: The URL for SQLAlchemy.
        path: The file, absolute, symbolic links followed.
    """

    url: URL
    path: Path


@dataclass(frozen=True)
class PostgresAddress:
    """A PostgreSQL database.

    Attributes:
        url: The URL for SQLAlchemy, with the driver ``postgresql+psycopg2``.
    """

    url: URL

    @property
    def where(self) -> str:
        """The server, for messages: ``host:port`` or the folder of its socket."""
        host = self.url.host or self.url.query.get("host") or "the local socket"
        name = host if isinstance(host, str) else ", ".join(host)
        return f"{name}:{self.url.port or 5432}" if self.url.host else name


@dataclass(frozen=True)
class ModalAddress:
    """A snapshot of a SQLite database on a Modal Volume, which its coordinator there keeps.

    Attributes:
        volume: The Volume's name.
        path: The file in it.
    """

    volume: str
    path: str

    @property
    def text(self) -> str:
        """The URL."""
        return f"modal://{self.volume}/{self.path}"


Database = SqliteAddress | PostgresAddress
"""What can be opened as a database from here."""

Address = Database | ModalAddress


def mask_url(url: str) -> str:
    """Return ``url`` with every password in it replaced by ``***``.

    Works on malformed URLs too, and then masks too much rather than too little: everything between
    the user name and the last ``@``; without an ``@``, whatever stands where a port would and is
    not a number. Options such as ``password=`` are masked in URLs and in ``key=value`` strings.
    """
    masked = _SECRET_OPTION.sub(lambda match: match["name"] + "***", url)
    start = re.match(r"(?:[\w+.-]+:/+)?", masked)
    scheme = start[0] if start else ""
    rest = masked[len(scheme) :]
    if scheme.lower().startswith("sqlite"):
        return masked
    login, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        return f"{scheme}{user}{colon and ':***'}@{place}"
    port = re.match(r"(?P<host>\[[^\]]*\]|[^:/?\[]*):(?!\d*(?:[/?,]|$))", rest)
    return f"{scheme}{port['host']}:***" if scheme and port else masked


def shown_url(address: Address) -> str:
    """Return the URL of ``address`` for people: without its password, and as they would type it."""
    if isinstance(address, ModalAddress):
        return address.text
    shown = address.url.render_as_string(hide_password=True)
    return mask_url(shown.replace("postgresql+psycopg2://", "postgresql://"))


def parse_url(url: str) -> Address:
    """Read a storage URL; nothing is opened and the file system is not changed.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``postgresql://…`` or
            ``postgres://…``, or ``modal://volume/file.db``. White space around it is ignored.

    Raises:
        StorageError: It is none of these, or something in it is missing or ambiguous.
    """
    if not isinstance(url, str):
        raise StorageError(
            f"A storage must be given as a URL, not as a {type(url).__name__}: write {EXAMPLES}."
        )
    text = url.strip()
    if not text:
        raise StorageError(f"The storage URL is empty: write {EXAMPLES}.")
    if any(ord(character) < 32 for character in text):
        raise StorageError(
            f"The storage URL {mask_url(text)!r} holds a control character or a line break: "
            f"write it on one line, such as {EXAMPLES}."
        )
    scheme, separator, rest = text.partition("://")
    dialect, _, driver = scheme.lower().partition("+")
    if dialect == "sqlite" and separator:
        return _parse_sqlite(text, rest, driver)
    if dialect in _POSTGRES and separator:
        return _parse_postgres(text, rest, driver)
    if dialect == "modal" and separator:
        return _parse_modal(text, rest)
    raise StorageError(_not_understood(text, dialect if separator else ""))


def parse_database(url: str) -> Database:
    """Read the URL of a database that can be opened from here; see :func:`parse_url`.

    Raises:
        StorageError: It is none; then the text says how a snapshot on Modal is read and run.
    """
    address = parse_url(url)
    if isinstance(address, ModalAddress):
        raise StorageError(
            f"The storage {address.text!r} is a snapshot that a coordinator on Modal keeps, and "
            "not a database to open: run its study with --coordinator modal, and read it with "
            f"hpo's own commands, such as: hpo best --storage {address.text}"
        )
    return address


def _not_understood(text: str, dialect: str) -> str:
    """Return the message for a text that is no URL of a supported database."""
    shown = mask_url(text)
    if dialect:
        why = _UNSUPPORTED.get(dialect, f"'{dialect}' is not a kind of database it knows")
        return f"The storage {shown!r} is not supported: {why}. Write {EXAMPLES}."
    if re.match(r"(sqlite|postgres(ql)?)(\+\w+)?:", text, re.IGNORECASE):
        return f"The storage {shown!r} lacks '://' after its scheme. Write {EXAMPLES}."
    if re.search(r"\b(host|dbname|user)\s*=", text):
        return f"The storage {shown!r} is a list of options, not a URL. Write {EXAMPLES}."
    if re.search(r"[:@]", text):
        return f"The storage {shown!r} is not a URL. Write {EXAMPLES}."
    return (
        f"The storage {shown!r} is not a URL; a SQLite file is written as "
        f"{'sqlite:///' + text!r}. Write {EXAMPLES}."
    )


def _parse_sqlite(text: str, rest: str, driver: str) -> SqliteAddress:
    """Read what follows ``sqlite://``."""
    from sqlalchemy.engine import URL

    if driver not in ("", "pysqlite"):
        raise StorageError(
            f"The storage {text!r} asks for the driver {driver!r}; only Python's own is used: "
            f"write sqlite://{rest}."
        )
    if rest in ("", "/") or rest.startswith(("/:memory:", ":memory:", "/?")):
        raise StorageError(
            f"The storage {text!r} is in memory: its trials could neither be resumed nor watched. "
            "Write sqlite:///hpo.db."
        )
    if not rest.startswith("/"):
        raise StorageError(
            f"The storage {text!r} has two slashes, so {rest!r} reads as a host name. "
            f"Write sqlite:///{rest} (three) for a file relative to the current directory, "
            f"sqlite:////{rest} (four) for an absolute path."
        )
    name = rest[1:]
    if name.startswith("file:"):
        raise StorageError(
            f"The storage {text!r} is a SQLite file: URI; write the path itself: sqlite:///hpo.db."
        )
    if "?" in name:
        plain = name.partition("?")[0]
        raise StorageError(
            f"The storage {text!r} holds '?': options are not taken here (the file is opened in "
            f"WAL mode with a busy timeout). Write sqlite:///{plain}."
        )
    if name.startswith("~"):
        raise StorageError(
            f"The storage {text!r} starts with '~', which is not expanded in a URL. "
            f"Write sqlite:///{Path.home()}{name[1:]}."
        )
    # SQLAlchemy, and with it optuna-dashboard, decodes %20 in a URL: mean the same file.
    path = Path(unquote(name)).resolve()
    return SqliteAddress(URL.create("sqlite", database=str(path)), path)


def _parse_modal(text: str, rest: str) -> ModalAddress:
    """Read what follows ``modal://``."""
    volume, _, path = rest.partition("/")
    name = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    if not re.fullmatch(name, volume) or not re.fullmatch(rf"{name}\.db", path):
        raise StorageError(
            f"The storage {mask_url(text)!r} names no file of a Modal Volume: write "
            "modal://VOLUME/FILE.db, both names of letters, digits, '.', '_' and '-', such as "
            "modal://hpo-studies/pairs.db."
        )
    return ModalAddress(volume, path)


def _parse_postgres(text: str, rest: str, driver: str) -> PostgresAddress:
    """Read what follows ``postgresql://``."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    shown = mask_url(text)
    if driver not in ("", "psycopg2"):
        raise StorageError(
            f"The storage {shown!r} asks for the driver {driver!r}; only psycopg2 is installed: "
            "write postgresql://… without a driver."
        )
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    if authority.count("@") > 1 or "@" in rest[len(authority) :].partition("?")[0]:
        raise StorageError(
            f"The storage {shown!r} holds an '@' or a '/' inside its password or its names: "
            "write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23 and % as %25."
        )
    port = re.search(r":([^:\]]*)$", authority.rpartition("@")[2])
    if port and not (port[1].isascii() and port[1].isdigit() and 0 < int(port[1]) < 65536):
        raise StorageError(
            f"The storage {shown!r} has no valid port: a port is a number from 1 to 65535. "
            f"Write {EXAMPLES}."
        )
    try:
        parsed = make_url("postgresql+psycopg2://" + rest)
    except (ArgumentError, ValueError) as error:
        raise StorageError(
            f"The storage {shown!r} cannot be read as a URL. Write {EXAMPLES}."
        ) from error
    if not parsed.database:
        raise StorageError(
            f"The storage {shown!r} names no database: write it after the host, "
            "such as postgresql://user:password@host:5432/hpo (and create it: createdb hpo)."
        )
    return PostgresAddress(parsed)
