"""`finsent history` and `finsent ledger`: every decision, and the audit log's verification; approval in `finsent status`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from finsent.cli import doctor
from finsent.cli.promote import _history_row, scoring_after
from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import ConfigError
from finsent.registry import client
from finsent.registry.audit_log import AuditEntry
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.workspace import Workspace, resolve_workspace
from tests.steps.promotion import SIGNED, WITH_APPROVAL, Snapshot, evaluate_new, snapshot

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, _mlflow_store: Path, make_adapter: Callable[[int], Path]) -> Snapshot:
    """Version 1 approved, 2 refused, 3 approved, rolled back to 1, and 4 waits."""
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("lived") / "home")})
    home.root.mkdir()
    shutil.copyfile(_mlflow_store, home.root / "mlflow.db")
    for version, options in (
        ("1", {}),
        ("2", {"champion": "1", "accuracy": 0.3}),
        ("3", {"champion": "1"}),
    ):
        evaluate_new(home, make_adapter(0), config=WITH_APPROVAL, **options)
        if promote.promote(make_context(WITH_APPROVAL, home)).decision == "pending_approval":
            promote.approve(make_context(WITH_APPROVAL, home), version, *SIGNED)
    promote.rollback(make_context(WITH_APPROVAL, home), "ada", "complaints since noon")
    evaluate_new(home, make_adapter(0), config=WITH_APPROVAL, champion="1")
    promote.promote(make_context(WITH_APPROVAL, home))
    return snapshot(home, tmp_path_factory.mktemp("kept") / "home")


@pytest.fixture
def home(lived: Snapshot) -> Workspace:
    return lived.restore()


def test_history_tells_what_happened_in_order(finsent: "Finsent", home: Workspace) -> None:
    found = finsent("history", "--home", home.root, "--json").json()
    told = [(entry["action"], entry["version"], entry["decision"]) for entry in found["entries"] if entry["action"] != "evaluate"]
    assert told == [
        ("gate", "1", "promote"),
        ("approve", "1", "promote"),
        ("gate", "2", "refuse"),
        ("gate", "3", "promote"),
        ("approve", "3", "promote"),
        ("rollback", "1", "promote"),
        ("gate", "4", "promote"),
    ]
    moved = [
        (entry["champion_before"], entry["champion_after"])
        for entry in found["entries"]
        if entry["champion_before"] != entry["champion_after"]
    ]
    assert moved == [(None, "1"), ("1", "3"), ("3", "1")]
    assert (found["of"], found["whole"], found["problem"]) == (11, True, None)
    text = finsent("history", "--home", home.root).out
    assert "11 of 11 entries in the audit log. Its chain verifies." in text
    assert "3 -> 1" in text
    rows = [line.split() for line in text.splitlines() if "T" in line and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == [str(entry["seq"]) for entry in found["entries"]]
    last = finsent("status", "--home", home.root, "--json").json()["decisions"]["last"]
    assert [entry["outcome"] for entry in last] == ["passed, waits", "promoted", "promoted", "passed, waits", "refused"]
    shown = [line.split() for line in finsent("status", "--home", home.root).out.splitlines()]
    (rolled_back,) = (row for row in rows if "rollback" in row)
    assert any(row[:5] == rolled_back[:5] for row in shown), "status and history call a decision the same"
    assert "complaints since noon" in text


def test_history_of_one_version_and_of_the_last(finsent: "Finsent", home: Workspace) -> None:
    of_three = finsent("history", "03", "--home", home.root, "--json").json()["entries"]
    assert [entry["action"] for entry in of_three] == ["evaluate", "gate", "approve", "rollback"]
    assert of_three[2]["who"] == "dana"
    last = finsent("history", "--limit", "2", "--home", home.root, "--json").json()
    assert [entry["action"] for entry in last["entries"]] == ["evaluate", "gate"]
    assert last["of"] == 11
    wrong = finsent("history", "9", "--home", home.root)
    assert (wrong.code, wrong.err) == (2, "error: 'finsent' has no version '9'. Its versions: 1, 2, 3, 4.\n")
    shown = finsent("history", "3", "--home", home.root).out
    assert "passed, waits" in shown, "a version that waits was not promoted"


def test_history_of_an_edited_ledger_says_so(finsent: "Finsent", home: Workspace) -> None:
    home.audit_log.write_text(home.audit_log.read_text().replace("complaints since noon", "it was raining out"))
    said = finsent("history", "--home", home.root)
    assert said.code == 0
    assert "ITS CHAIN IS BROKEN" in said.out
    assert "line 9: the entry was changed" in said.out


def test_history_calls_an_adoption_one() -> None:
    entry = AuditEntry(7, "2026-07-01T12:00:00+00:00", "adopt", "2", "promote", "2", None, "ada", "it was deleted", (), 3600.0)
    assert _history_row(entry)[3:6] == ("adopt", "adopted", "2 -> -")
    assert _history_row(entry)[:2] == ("7", "2026-07-01T12:00:00 (clock set back 60 min 00 s)")


@pytest.mark.parametrize("how", ["deleted", "emptied", "cut off"])
def test_history_of_a_ledger_that_lacks_what_mlflow_knows_says_so(finsent: "Finsent", home: Workspace, how: str) -> None:
    kept = b"".join(home.audit_log.read_bytes().splitlines(keepends=True)[:3])
    home.audit_log.unlink()
    if how != "deleted":
        home.audit_log.write_bytes(kept if how == "cut off" else b"")
    said = finsent("history", "--home", home.root).out
    assert "IT IS NOT WHOLE" in said
    assert "Restore the audit log from a copy" in " ".join(said.split())
    assert finsent("history", "--home", home.root, "--json").json()["whole"] is False
    assert finsent("status", "--home", home.root).code == 1, "every command that acts refuses"


def test_a_whole_ledger_verifies(finsent: "Finsent", home: Workspace) -> None:
    said = finsent("ledger", "verify", "--home", home.root, "--json")
    assert said.code == 0
    assert (said.json()["entries"], said.json()["copied"]) == (11, 11)
    assert len(said.json()["head"]) == 64


@pytest.mark.parametrize("how", ["edited", "deleted", "reordered", "cut off"])
def test_a_ledger_that_was_touched_does_not(finsent: "Finsent", home: Workspace, how: str) -> None:
    lines = home.audit_log.read_bytes().splitlines(keepends=True)
    changed = {
        "edited": [*lines[:3], lines[3].replace(b"evaluate", b"approves"), *lines[4:]],
        "deleted": [*lines[:3], *lines[4:]],
        "reordered": [*lines[:3], lines[4], lines[3], *lines[5:]],
        "cut off": lines[:3],
    }[how]
    assert changed != lines
    home.audit_log.write_bytes(b"".join(changed))
    said = finsent("ledger", "verify", "--home", home.root)
    assert said.code == 1
    assert "refused: audit log" in said.err
    assert "line 4" in said.err or how == "cut off"
    assert "line " in said.err


def test_an_exported_ledger_is_the_ledger(finsent: "Finsent", home: Workspace, tmp_path: Path) -> None:
    said = finsent("ledger", "export", tmp_path / "kept" / "ledger.jsonl", "--home", home.root, "--json")
    assert said.code == 0
    assert (tmp_path / "kept" / "ledger.jsonl").read_bytes() == home.audit_log.read_bytes()
    assert said.json()["entries"] == 11
    again = finsent("ledger", "export", tmp_path / "kept" / "ledger.jsonl", "--home", home.root)
    assert again.code == 2
    assert "exists" in again.err
    nothing = finsent("ledger", "export", tmp_path / "other.jsonl", "--home", tmp_path / "empty")
    assert nothing.code == 2
    assert "there is no audit log" in nothing.err


def test_status_says_how_long_approval_is_good_for(finsent: "Finsent", home: Workspace) -> None:
    found = finsent("status", "--home", home.root, "--json").json()["versions"]
    assert (found["challenger"]["version"], found["challenger"]["stage"]) == ("4", "challenger")
    assert found["challenger"]["approval_expires_at"].endswith("+00:00")
    assert "Version 4 waits for approval (finsent approve | reject), for 16" in finsent("status", "--home", home.root).out
    late = finsent("status", "--home", home.root, "--set", "gate.approval_expires_hours=1e-7").out
    assert "Version 4 waited for approval until" in late


@pytest.mark.parametrize("fault", ["damaged", "credentials"])
def test_what_reports_still_does_with_a_store_that_cannot_be_read(
    finsent: "Finsent", home: Workspace, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "damaged":
        (home.root / "mlflow.db").write_bytes(b"this is no database" * 1000)
        said = "cannot be used"
    else:
        said = "rejected the request"

        def refuse(*_: object) -> None:
            raise ConfigError("MLflow rejected the request. Set MLFLOW_TRACKING_USERNAME.")

        monkeypatch.setattr(client, "connect", refuse)
    status = finsent("status", "--home", home.root, "--json").json()
    assert said in status["versions"]["error"]
    assert status["decisions"]["agrees"] is None
    history = finsent("history", "--home", home.root)
    assert history.code == 0
    assert "entries in the audit log" in history.out
    assert "is not compared with MLflow" in history.err
    if fault == "damaged":
        checks = {check.name: check for check in doctor.check_artifacts(WITH_APPROVAL, home)}
        assert checks["artifacts"].state == "fail"


def test_rollback_says_how_many_tweets_wait_for_the_version_that_comes_back(finsent: "Finsent", home: Workspace) -> None:
    assert finsent("approve", "4", "--why", "looked at", "--home", home.root).code == 0
    assert scoring_after(make_context(WITH_APPROVAL, home), "1").startswith("No tweet of the inbox waits: version 1")
    rows = [{"id": name, "text": f"{name} is up"} for name in ("gold", "oil")]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=SCHEMAS["inbox"]))
    said = finsent("rollback", "--why", "noise", "--home", home.root).out
    assert "2 tweets of the inbox wait for version 1." in said
    assert "waits again" not in said
