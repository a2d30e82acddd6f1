"""Reads a database query through SQLAlchemy: read only, streamed, with the password masked in every message.

Without ORDER BY the rows may come in any order; only the row numbers that the quarantine shows depend on it.
"""

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Source
from finsent.environ import absolute_path
from finsent.errors import FinsentError, InputError, ServiceError, did_you_mean, shorten

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, CursorResult, Engine

_log = logging.getLogger(__name__)

_BATCH_ROWS: Final = 1000
_CONNECT_SECONDS: Final = 10
_READ_ONLY: Final = {
    "sqlite": "PRAGMA query_only = ON",
    "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "mariadb": "SET SESSION TRANSACTION READ ONLY",
}
_DRIVERS: Final = {"postgresql": "psycopg2-binary", "mysql": "pymysql", "mariadb": "pymysql"}
_OUTAGE: Final = re.compile(
    "refused|timed? ?out|timeout expired|closed the connection|terminating connection|connection (?:reset|already closed|lost)|"
    "lost connection|gone away|unreachable|starting up|shutting down|too many (?:connections|clients)|could not translate host|"
    "name resolution|can't connect|database is locked|deadlock",
    re.IGNORECASE,
)
"""What drivers say of a database that does not answer now; they have no common error class for it."""
_EXAMPLE: Final = "SELECT body AS text, label FROM tweets"


def check_source(source: Source) -> str:
    """Check address and query without connecting; returns the database's name.

    Raises:
        InputError: not a database URL, or no query.
    """
    url = _parse_url(source)
    if not (source.query or "").strip():
        raise InputError(f"{source.uri!r} is a database, and no query was given. Give `query` (--query), e.g. {_EXAMPLE!r}.")
    if source.format != "auto":
        raise InputError(f"{source.uri!r} is a database, and has no file format {source.format!r}. Leave `format` out.")
    return Path(url.database or "").stem or url.host or str(url.get_backend_name())


def stream_rows(source: Source) -> Iterator[tuple[list[str], list[tuple[Any, ...]]]]:
    """Column names and the next rows of the query, until its end; the first item has no rows.

    Raises:
        InputError: driver missing, login rejected, or a query that the database rejects or that writes.
        ServiceError: the database does not answer.
    """
    query = source.query or ""
    with _connect_read_only(source) as connection, _translate_errors(source, f"the query {shorten(query, 200)!r}"):
        options = {"stream_results": True, "yield_per": _BATCH_ROWS, "no_parameters": True}
        result: CursorResult[Any] = connection.exec_driver_sql(query, execution_options=options)
        if not result.returns_rows:
            raise InputError(
                f"{source.uri!r}: the query {shorten(query, 200)!r} returns no rows. Give a SELECT, e.g. {_EXAMPLE!r}."
            )
        columns = list(result.keys())
        yield columns, []
        for part in result.partitions():
            yield columns, [tuple(row) for row in part]


class RowDigest:
    """Order-independent digest of rows: the sum of their SHA-256 hashes, modulo 2**256."""

    def __init__(self) -> None:
        self._sum = 0
        self.rows = 0

    def add(self, row: tuple[Any, ...]) -> None:
        """Add a row."""
        self._sum += int.from_bytes(hashlib.sha256(repr(row).encode("utf-8", "backslashreplace")).digest(), "big")
        self.rows += 1

    def hexdigest(self) -> str:
        """The sum so far, in hexadecimal."""
        return f"{self._sum % (1 << 256):064x}"


def _fill_in(template: str, shown: str) -> "URL":
    """The URL in which each `${NAME}` is the environment variable as it stands, whatever signs it holds.

    Passwords and options may be anything: there a reference is the whole of it, and is told from a text like one by its place in
    the template, where such a text is percent-encoded or part of a longer one.
    """
    from sqlalchemy.engine import make_url

    mark = uuid.uuid4().hex

    def value(match: re.Match[str]) -> str:
        if not (found := os.environ.get(match[1])):
            raise InputError(f"{shown!r}: the environment variable {match[1]!r} is not set here. Set it where this runs.")
        return found

    def fill(text: str | None) -> str | None:
        return text and re.sub(rf"{mark}(\w+)\.", value, text)

    def fill_whole(text: str) -> str:
        found = re.fullmatch(rf"{mark}(\w+)\.", text)
        return value(found) if found else re.sub(rf"{mark}(\w+)\.", r"${\1}", text)

    port = re.match(r"[^/]+://[^/?]*:\$\{(\w+)\}(?=[/?]|$)", template)
    if port:
        template = template[: port.start(1) - 3] + template[port.end() :]
    url = make_url(re.sub(r"\$\{(\w+)\}", rf"{mark}\1.", template))
    if url.get_backend_name() == "sqlite" and (url.database or "").startswith(mark):
        url = url.set(database=str(absolute_path(fill(url.database) or "", f"the file in {shown!r}", None)))
    if isinstance(url.password, str):
        url = url.set(password=fill_whole(url.password))
    options = {
        key: fill_whole(given) if isinstance(given, str) else tuple(map(fill_whole, given)) for key, given in url.query.items()
    }
    url = url.set(username=fill(url.username), host=fill(url.host), database=fill(url.database), query=options)
    return url.set(port=_port(value(port), port[1], shown)) if port else url


def _port(given: str, name: str, shown: str) -> int:
    if given.isascii() and given.isdigit() and int(given) < 1 << 16:
        return int(given)
    raise InputError(f"{shown!r}: the environment variable {name!r} is {given!r}, which is no port. Correct it.")


def _parse_url(source: Source) -> Any:
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    scheme = source.uri.partition("://")[0]
    try:
        url = _fill_in(source.connection.get_secret_value() if source.connection else source.uri, source.uri)
        url.get_dialect()
    except NoSuchModuleError as error:
        meant = " Did you mean 'postgresql'?" if scheme.startswith("postgres") else ""
        raise InputError(
            f"{source.uri!r}: the kind of address is not understood.{meant} Give a file, a folder, a glob, s3://bucket/key, "
            "hf://owner/name, or a database's SQLAlchemy URL such as postgresql+psycopg2://user@host/name, with a query."
        ) from error
    except FinsentError:
        raise
    except (ArgumentError, ValueError):
        # from None: these errors quote the address
        raise InputError(
            f"{source.uri!r} is not a database URL. Its form is dialect+driver://user:password@host:port/name; percent-encode "
            "special characters in user and password."
        ) from None
    if url.password == "***":  # noqa: S105 - the mask, not a password
        raise InputError(
            f"{source.uri!r}: the password was masked when this was stored. Give it again, or leave it to the driver "
            "(PGPASSWORD, a password file)."
        )
    if "@" in (url.host or ""):
        raise InputError(f"{source.uri!r}: the password holds an '@' that is not written %40. Percent-encode it.")
    return url


def _engine(source: Source) -> "Engine":
    import sqlalchemy

    url = _parse_url(source)
    backend = url.get_backend_name()
    arguments: dict[str, Any] = {}
    if backend == "sqlite":
        _check_sqlite(source, url.database)
    elif backend == "postgresql" and url.get_driver_name() in ("psycopg2", "psycopg") and "connect_timeout" not in url.query:
        arguments = {"connect_timeout": _CONNECT_SECONDS}
    if url.get_dialect().is_async:
        raise InputError(
            f"{source.uri!r}: the driver {url.get_driver_name()!r} is an asynchronous one. Name another, e.g. +psycopg2."
        )
    try:
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=arguments, hide_parameters=True)
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(backend, error.name)
        raise InputError(
            f"{source.uri!r}: the driver {url.get_driver_name()!r} is not installed ({error.name}). Install it, e.g. "
            f"`pip install {package}`."
        ) from error


def _check_sqlite(source: Source, database: str | None) -> None:
    """Check that the file exists: SQLite would create it."""
    path = Path(database or "")
    if not database or (not path.is_file() and not database.startswith("file:")):
        siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"{source.uri!r}: there is no database file {database!r}.{did_you_mean(path.name, siblings)}")


def _deny_attach(action: int, *_: str | None) -> int:
    """Deny ATTACH, and VACUUM INTO with it: both create a file even in a read-only session."""
    import sqlite3

    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


@contextmanager
def _connect_read_only(source: Source) -> "Iterator[Connection]":
    engine = _engine(source)
    backend = engine.dialect.name
    with _translate_errors(source, "the connection"):
        connection = engine.connect()
    try:
        with _translate_errors(source, "the connection"):
            if backend == "sqlite":
                # bytes that are not UTF-8 become lone surrogates, which row validation finds
                driver: Any = connection.connection.driver_connection
                driver.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
                driver.set_authorizer(_deny_attach)
            if backend in _READ_ONLY:
                connection.exec_driver_sql(_READ_ONLY[backend])
                connection.commit()
            else:
                _log.warning(
                    "%s: a session of %r cannot be made read only. Use an account that may only read", source.uri, backend
                )
        yield connection
    finally:
        connection.close()
        engine.dispose()


@contextmanager
def _translate_errors(source: Source, what: str) -> Iterator[None]:
    """Turn errors of SQLAlchemy and the driver into finsent's with the database's message, without address or password.

    Raises:
        ServiceError: the database does not answer.
        InputError: it rejects the query or the login.
    """
    import sqlite3

    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, sqlite3.Warning, UnicodeError) as error:
        said = str(error.orig if isinstance(error, DBAPIError) and error.orig else error)
        secret = _parse_url(source).password
        if secret:
            said = said.replace(str(secret), "***")
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        raise (ServiceError if lost or _OUTAGE.search(said) else InputError)(
            f"{source.uri!r}: {what} failed: {shorten(' '.join(said.split()), 300).rstrip('.')}. Nothing was written."
        ) from None
