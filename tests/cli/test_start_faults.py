"""The cause of a failed start, from the end of a server's log."""

import pytest

from finsent.cli.start_faults import explain


@pytest.mark.parametrize(
    ("name", "log", "advice"),
    [
        ("mlflow", "sqlite3.OperationalError: database or disk is full", "make room"),
        ("prefect", "OSError: [Errno 28] No space left on device: '/home/prefect'", "make room"),
        ("mlflow", "sqlite3.DatabaseError: database disk image is malformed", "put a backup"),
        ("prefect", "sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) file is not a database", "put a backup"),
        ("mlflow", "sqlite3.OperationalError: attempt to write a readonly database", "owner, permissions"),
        ("mlflow", "alembic.util.exc.CommandError: Can't locate revision identified by 'ff'", "constraints.txt"),
        ("prefect", 'asyncpg.exceptions.InvalidCatalogNameError: database "desk" does not exist', "does not have that database"),
        ("prefect", 'InvalidPasswordError: password authentication failed for user "u"', "rejects the user or the password"),
        ("prefect", "OSError: Multiple exceptions: [Errno 111] Connect call failed ('::1', 5432, 0, 0)", "cannot be reached"),
        ("prefect", "socket.gaierror: [Errno -2] Name or service not known", "cannot be reached"),
    ],
)
def test_what_logs_say_is_told_with_what_to_do(name: str, log: str, advice: str) -> None:
    assert advice in explain(name, 1, f"Traceback ...\n{log}\n")


def test_the_database_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://u:hunter2@db:5432/desk")
    said = explain("prefect", 3, "ConnectionRefusedError")
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL = 'postgresql+asyncpg://db:5432/desk'" in said
    assert "PREFECT_SERVER" not in explain("mlflow", 3, "ConnectionRefusedError")


def test_of_an_unknown_end_nothing_is_made_up() -> None:
    assert explain("mlflow", 1, "no database") == ""
    assert "killed from outside" in explain("mlflow", -9, "")
