"""Until when an approval may be given, by an audit log whose clock was set back."""

from types import SimpleNamespace

import pytest

from finsent.config import load_config
from finsent.registry import approvals, audit_log
from tests.registry.clocks import clock_at

RULES = load_config("nano", overrides=["gate.approval_expires_hours=72"]).gate
ASKED = {"action": "gate", "model": "finsent", "version": "2", "decision": "promote"}
LATER = {"action": "evaluate", "model": "another", "version": "9"}


@pytest.mark.parametrize(
    ("entries", "now", "status"),
    [
        ([("07-01", ASKED)], "07-03", None),
        ([("07-01", ASKED)], "07-05", "fail"),
        ([("07-01", ASKED), ("07-03", LATER)], "07-02", "missing"),  # set back since: nobody knows how long it waits
        ([("07-01", ASKED), ("07-03", LATER), ("07-01", LATER)], "07-01", None),
        ([("07-01", ASKED), ("07-03", LATER), ("07-01", LATER)], "07-03", "fail"),  # two days and two more
        ([("07-09", LATER), ("07-01", ASKED)], "07-03", None),  # set right before it was asked for
    ],
)
def test_a_clock_that_is_set_back_gives_no_time(tmp_path, monkeypatch, entries, now, status):
    workspace = SimpleNamespace(audit_log=tmp_path / "audit_log.jsonl")
    registry = SimpleNamespace(workspace=workspace, name="finsent", get_version=lambda _: SimpleNamespace(tags={}))
    for day, entry in entries:
        monkeypatch.setattr(audit_log, "datetime", clock_at(f"2026-{day}T12:00:00"))
        audit_log.append(workspace.audit_log, entry)
    monkeypatch.setattr(approvals, "datetime", clock_at(f"2026-{now}T13:00:00"))
    rule = approvals.approval_overdue(registry, RULES, "2")
    assert (rule and rule.status) == status
    if status == "missing":
        assert (
            "it was set back, so how long version 2 has waited is not known. Set the clock, then `finsent promote`" in rule.reason
        )
