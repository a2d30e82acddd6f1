"""Databases: SQLite and a real Postgres, streamed, read only, with the password masked."""

import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finsent.config import Source, load_config
from finsent.data.sources import database
from finsent.data.sources.formats import fingerprint_file, read_rows
from finsent.data.sources.records import RawRow, SourceFile, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import ConfigError, InputError, ServiceError

PASSWORD = "hunter2:/?#"
QUOTED = "hunter2%3A%2F%3F%23"
TWEETS = "SELECT body AS text, mood AS label FROM tweets"


def rows_of(source: Source, file: SourceFile | None = None) -> list[RawRow]:
    return [row for batch in read_rows(file or resolve(source)[0], labelled_columns(source)) for row in batch]


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """URL of a database of 5,000 tweets."""
    with sqlite3.connect(tmp_path / "desk.db") as connection:
        connection.execute("CREATE TABLE tweets (id INTEGER, body TEXT, mood TEXT)")
        connection.executemany("INSERT INTO tweets VALUES (?, ?, ?)", ((n, f"tweet {n} 🚀", "Bullish") for n in range(5000)))
    connection.close()
    return f"sqlite:///{tmp_path / 'desk.db'}"


def test_a_query_is_read_row_by_row(sqlite: str) -> None:
    source = Source(uri=sqlite, query="SELECT body AS text, mood AS label FROM tweets ORDER BY id", name="desk")
    (file,) = resolve(source)
    assert (file.name, file.label, file.format) == ("desk", "desk", "sql")
    batches = list(read_rows(file, labelled_columns(source)))
    assert max(map(len, batches)) <= 1000
    rows = [row for batch in batches for row in batch]
    assert [(row.number, row.text, row.label) for row in rows] == [(n + 1, f"tweet {n} 🚀", "Bullish") for n in range(5000)]


def test_the_fingerprint_covers_query_and_rows_in_any_order(sqlite: str) -> None:
    found = []
    for order in ("ORDER BY id", "ORDER BY id DESC", "WHERE id > 0"):
        source = Source(uri=sqlite, query=f"{TWEETS} {order}")
        (file,) = resolve(source)
        with pytest.raises(InputError, match="not been read to its end"):
            fingerprint_file(file)
        rows_of(source, file)
        found.append(fingerprint_file(file))
    up, down, fewer = found
    assert up["name"] == "desk"
    assert (up["rows"], fewer["rows"]) == (5000, 4999)
    assert up["sha256"] == down["sha256"] != fewer["sha256"]
    assert up["query_sha256"] != down["query_sha256"]


def test_an_invalid_value_costs_only_its_row(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE t (text, label)")
        connection.execute("INSERT INTO t VALUES (cast(x'61ff' AS TEXT), 'Bullish'), (x'00ff', 1), (NULL, NULL), (7, 0.5)")
    connection.close()
    rows = rows_of(Source(uri=f"sqlite:///{tmp_path / 'a.db'}", query="SELECT * FROM t"))
    assert [(row.text, row.label) for row in rows] == [("a\udcff", "Bullish"), (b"\0\xff", 1), (None, None), (7, 0.5)]


WRONG: dict[str, tuple[str, str]] = {
    "DELETE FROM tweets": ("SQLITE", "readonly database"),
    "SELECT body AS text FROM tweet": ("SQLITE", "no such table: tweet"),
    "SELECT 1; DROP TABLE tweets": ("SQLITE", "one statement at a time"),
    "SELECT body, mood AS label FROM tweets": ("SQLITE", "no column 'text' for the tweet. Columns: 'body', 'label'"),
    "SELECT body AS text, mood AS text, mood AS label FROM tweets": ("SQLITE", "the column 'text' occurs 2 times"),
    "SELECT body AS text, mood AS label FROM tweets WHERE 0": ("SQLITE", "FROM tweets WHERE 0' has no rows. Check its WHERE"),
    "PRAGMA user_version = 5": ("SQLITE", "readonly database"),
    "PRAGMA cache_size = 100": ("SQLITE", "returns no rows"),
    " ": ("SQLITE", "no query was given"),
    "SELECT 1": ("sqlite:///absent.db", "there is no database file 'absent.db'"),
    "SELECT 2": ("sqlite://", "there is no database file"),
    "SELECT 4": (f"mysql+pymysql://me:{QUOTED}@127.0.0.1:1/desk", "driver 'pymysql' is not installed"),
    "SELECT 5": (f"postgresql+asyncpg://me:{QUOTED}@127.0.0.1/desk", "asynchronous"),
    "SELECT 6": (f"postgres://me:{QUOTED}@127.0.0.1/desk", "Did you mean 'postgresql'?"),
    "SELECT 7": ("postgresql://me:hunt@er2@127.0.0.1/desk", "Percent-encode"),
    "SELECT 8": (f"postgresql://me:{QUOTED}@127.0.0.1:port/desk", "is not a database URL"),
    "SELECT 9": ("postgresql://me:***@127.0.0.1/desk", "was masked"),
    "SELECT 10": ("tweets.csv", "is not a database URL, and a query was given"),
}


@pytest.mark.parametrize("query", WRONG)
def test_wrong_queries_and_addresses(sqlite: str, query: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    uri, message = WRONG[query]
    with pytest.raises(InputError) as raised:
        rows_of(Source(uri=sqlite if uri == "SQLITE" else uri, query=query))
    assert message in str(raised.value)
    assert "hunt" not in str(raised.value) + caplog.text
    with sqlite3.connect(sqlite.removeprefix("sqlite:///")) as connection:
        assert connection.execute("SELECT count(*) FROM tweets").fetchone() == (5000,)
        assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()


def test_a_database_that_does_not_answer_now_is_an_outage(sqlite: str) -> None:
    with pytest.raises(ServiceError, match=r"the connection failed: .*Connection refused") as raised:
        rows_of(Source(uri=f"postgresql://me:{QUOTED}@127.0.0.1:1/desk", query="SELECT 1"))
    assert raised.value.retryable
    assert "hunt" not in str(raised.value)
    other = sqlite3.connect(sqlite.removeprefix("sqlite:///"))
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ServiceError, match="database is locked"):
        rows_of(Source(uri=f"{sqlite}?timeout=0.1", query="SELECT body, label FROM tweets"))
    other.close()


@pytest.mark.parametrize("query", ["ATTACH DATABASE '{}' AS other", "VACUUM INTO '{}'", "CREATE TEMP TABLE t AS SELECT 1"])
def test_a_query_cannot_create_a_file(sqlite: str, tmp_path: Path, query: str) -> None:
    with pytest.raises(InputError, match=r"not authorized|authorization denied|readonly database"):
        rows_of(Source(uri=sqlite, query=query.format(tmp_path / "new.db")))
    assert [path.name for path in tmp_path.iterdir()] == ["desk.db"]


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://me:{QUOTED}@db/desk",
        "postgresql://me:hunter2@db/desk?sslpassword=hunter2&x=1",
        "postgresql://db/desk?user=me&password=hunter2",
        "postgresql://me:hunter2/@x@db/desk",
    ],
)
def test_the_password_is_never_shown(uri: str) -> None:
    source = Source(uri=uri, query="SELECT 1")
    shown = [repr(source), str(source.model_dump()), source.model_dump_json(), str(source.model_copy(update={"name": "a"}))]
    assert not any("hunter2" in text for text in shown)
    assert "***" in source.uri
    assert source.connection is not None
    assert source.connection.get_secret_value() == uri


def test_a_variable_named_in_the_url_is_read_where_the_query_runs(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, name = sqlite.rpartition("/")
    source = Source(uri=f"{folder}/${{DESK_NAME}}", query="SELECT 'up' AS text, 'Bullish' AS label")
    with pytest.raises(InputError, match=r"the environment variable 'DESK_NAME' is not set"):
        resolve(source)
    monkeypatch.setenv("DESK_NAME", name)
    assert len(rows_of(source)) == 1
    assert source.uri.endswith("/${DESK_NAME}"), "stored as it was given"
    assert Source(uri="postgresql://me:${PW}@db/desk").uri == "postgresql://me:${PW}@db/desk"


@pytest.mark.parametrize(
    ("template", "meant"),
    [
        ("postgresql://${U}:${PW}@${H}:${PORT}/${DB}?sslmode=${MODE}", ("a/@:b", "p%/@?#${b}", "db.firm", 6432, "x y/%41")),
        ("postgresql://${U}_x@${H}/pre_${DB}", ("a/@:b_x", None, "db.firm", None, "pre_x y/%41")),
        ("postgresql://me:pa${b}ss@db/desk", ("me", "pa${b}ss", "db", None, "desk")),
        ("postgresql://me:%24%7Bb%7D@db:5433/desk", ("me", "${b}", "db", 5433, "desk")),
        ("postgresql://me@[::1]:${PORT}/desk", ("me", None, "::1", 6432, "desk")),
    ],
)
def test_variables_stand_for_their_values_as_they_are(
    template: str, meant: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"U": "a/@:b", "PW": "p%/@?#${b}", "H": "db.firm", "PORT": "6432", "DB": "x y/%41", "MODE": "verify full"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    url = database._parse_url(Source(uri=template, query="SELECT 1"))
    assert (url.username, url.password, url.host, url.port, url.database) == meant
    assert dict(url.query) == ({"sslmode": "verify full"} if "sslmode" in template else {})


@pytest.mark.parametrize(
    ("uri", "value", "message"),
    [
        ("postgresql://me@db:${GIVEN}/desk", "x1", "'GIVEN' is 'x1', which is no port"),
        ("sqlite:///${GIVEN}", "desk.db", "= 'desk.db' is relative"),
    ],
)
def test_values_that_fit_no_address(uri: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", value)
    with pytest.raises((InputError, ConfigError), match=message):
        resolve(Source(uri=uri, query="SELECT 1"))


def test_an_sqlite_file_may_be_named_by_a_variable(sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(sqlite.removeprefix("sqlite:///")).rename(tmp_path / "a %41 desk#1.db")
    monkeypatch.setenv("DESK_FILE", str(file))
    settings = tmp_path / "settings" / "mine.yaml"
    settings.parent.mkdir()
    settings.write_text(f"data: {{sources: [{{uri: 'sqlite:///${{DESK_FILE}}', query: '{TWEETS}'}}]}}")
    (source,) = load_config(path=settings).data.sources
    assert len(rows_of(source)) == 5000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """Address of a Postgres that asks for a password, `me:PASSWORD@` to be put before it."""
    pytest.importorskip("psycopg2", reason="no driver for Postgres here")
    places = [*os.environ["PATH"].split(os.pathsep), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    initdb, server = (shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "postgres"))
    if initdb is None or server is None:
        pytest.skip("no Postgres here")
    as_user = {"user": "nobody", "cwd": "/"} if os.geteuid() == 0 else {}  # Postgres refuses to run as root
    # pytest closes the folders above its own to all other users whenever it starts
    scratch = tempfile.TemporaryDirectory(prefix="finsent-postgres-", ignore_cleanup_errors=True)
    folder = Path(scratch.name)
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password") if as_user else ():
        shutil.chown(path, "nobody")
    data, port = folder / "data", free_port()
    setup = [initdb, "-D", str(data), "-U", "me", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    subprocess.run([*setup, "--no-sync", "--no-instructions", "-E", "UTF8"], check=True, capture_output=True, **as_user)
    command = [server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user) as process:
        address = f"127.0.0.1:{port}/postgres"
        fill(f"host=127.0.0.1 port={port} user=me dbname=postgres", process)
        yield address
        process.send_signal(signal.SIGINT)
    scratch.cleanup()


def fill(dsn: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait for the server and give it a table of tweets."""
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            connection = psycopg2.connect(dsn, password=PASSWORD)
            break
        except psycopg2.OperationalError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE tweets (body text, mood text, posted timestamptz, score numeric)")
        cursor.execute(
            "INSERT INTO tweets SELECT 'it''s 100% :up ' || n, 'Bullish', '2025-01-01 12:00+02', 1 "
            "FROM generate_series(1, 5000) n"
        )
    connection.close()


def test_postgres_is_streamed_and_read_only(postgres: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    uri = f"postgresql+psycopg2://me:{QUOTED}@{postgres}"
    query = "SELECT body AS text, mood::text AS label, posted AS created_at FROM tweets WHERE body LIKE '%100% :up%'"
    source = Source(uri=uri, query=query)
    (file,) = resolve(source)
    rows = rows_of(source, file)
    assert len({row.text for row in rows}) == len(rows) == 5000
    assert [row.number for row in rows] == list(range(1, 5001))
    assert str(rows[0].created_at).startswith("2025-01-01 ")
    assert rows[0].label == "Bullish"
    shown = [str(fingerprint_file(file)), repr(file)]
    for query, message in {
        "DELETE FROM tweets RETURNING body AS text, mood AS label": "syntax error",
        "WITH gone AS (DELETE FROM tweets RETURNING *) SELECT body AS text, mood AS label FROM gone": "WITH",
        "SELECT 1 AS text; COMMIT; DROP TABLE tweets": "read-only transaction",
        "SELECT nextval('nope')": "nope",
        "SELECT bdy AS text, mood AS label FROM tweets": "bdy",
        "SELECT body AS text, score / 0 AS label FROM tweets": "division by zero",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            rows_of(Source(uri=uri, query=query))
        shown.append(str(raised.value))
    for wrong, message in (("me:hunter3", "password authentication failed"), ("nobody:hunter3", "authentication failed")):
        with pytest.raises(InputError, match=message) as raised:
            rows_of(Source(uri=f"postgresql://{wrong}@{postgres}", query="SELECT 1"))
        shown.append(str(raised.value))
    assert not any("hunter" in text for text in [*shown, caplog.text])
    assert len(rows_of(source)) == 5000


def test_the_password_can_stay_out_of_the_url(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    rows = rows_of(Source(uri=f"postgresql://me@{postgres}", query="SELECT body AS text, mood AS label FROM tweets LIMIT 3"))
    assert len(rows) == 3
