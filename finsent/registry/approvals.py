"""Approval by a person: which version waits for it, until when by the audit log's times, and what the person is asked."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from finsent.config import GateConfig
from finsent.errors import CheckFailed
from finsent.evaluation.power import format_power
from finsent.registry import audit_log
from finsent.registry.audit_log import APPROVAL_VOID, APPROVE, GATE, REJECT
from finsent.registry.client import CHALLENGER, Registry
from finsent.registry.evidence_store import changed_rules, load_verified_evidence, recorded_evidence
from finsent.registry.gate import RuleResult

_CLOCKS_DIFFER: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class ApprovalRequest:
    """What a person is asked."""

    model_name: str
    version: str
    champion: str | None
    expires_at: datetime | None
    """UTC; None if the audit log does not know since when the version waits."""
    text: str
    """Markdown: why the gate let it through, and what the test set can detect."""
    problem: str | None = None
    """Why no decision on it would be accepted now."""


def require_awaiting_approval(registry: Registry, rules: GateConfig, version: str | None) -> str:
    """The challenger's version: only the challenger awaits approval, and its alias is the last thing to go in every decision.

    Raises:
        InputError: there is no such version.
        CheckFailed: the version does not await approval, or it was evaluated under other rules: a decision would then be about
            another decision than the one that waits.
    """
    name, challenger = registry.name, registry.aliases().get(CHALLENGER)
    version = version or challenger
    if version is None:
        raise CheckFailed(f"no version of {name!r} waits for approval. `finsent promote` puts one there.")
    registry.get_version(version)
    if version == registry.champion():  # approved by a process that was killed before it took the other alias away
        raise CheckFailed(f"version {version!r} of {name!r} is the champion. Use `finsent rollback` to replace it.")
    if version != challenger:
        waits = f"version {challenger} does" if challenger else "none does; `finsent promote` puts one there"
        raise CheckFailed(f"version {version!r} of {name!r} does not wait for approval: {waits}.")
    if problem := _other_rules(registry, rules, version):
        raise CheckFailed(problem)
    return version


def _other_rules(registry: Registry, rules: GateConfig, version: str) -> str | None:
    if not (changed := changed_rules(recorded_evidence(registry, version), rules)):
        return None
    return (
        f"version {version!r} was evaluated under other rules than those of this configuration ({'; '.join(changed)}). It "
        "waits on: give the command the options that the evaluation had (--profile, --config, --set), or evaluate it again."
    )


def expires_at(registry: Registry, rules: GateConfig, version: str) -> datetime | None:
    """Until when (UTC) the version may be approved, by the audit log's entry of the gate's decision; None if there is none.

    The tag `approval_requested_at` does not count: whoever may write to MLflow can set it. A clock that was set back since the
    request, as far as later entries show it, gives no time back.
    """
    record, whole = registry.get_version(version), audit_log.read(registry.workspace.audit_log)
    for entry in reversed([e for e in whole if (e.get("model"), e.get("version")) == (registry.name, version)]):
        if entry.get("manifest_sha256") not in {None, record.tags.get("manifest_sha256")}:
            return None  # about another version, which had the number before the registry was begun anew
        if entry.get("action") in {APPROVAL_VOID, REJECT}:
            return None
        if entry.get("action") == GATE:
            back = sum(audit_log.clock_set_back(whole[entry["seq"] :]))
            waits = timedelta(hours=rules.approval_expires_hours, seconds=-back)
            return datetime.fromisoformat(entry["at"]) + waits if entry.get("decision") == "promote" else None
    return None


def approval_overdue(registry: Registry, rules: GateConfig, version: str) -> RuleResult | None:
    """The failed rule that an approval comes too late; None while it is in time."""
    until, hours = expires_at(registry, rules, version), rules.approval_expires_hours
    if until is None:
        reason = f"The audit log does not say since when version {version} waits for approval: `finsent promote` asks anew."
        return RuleResult("approval_in_time", None, hours, "missing", reason)
    now, newest = datetime.now(UTC), datetime.fromisoformat(audit_log.read(registry.workspace.audit_log)[-1]["at"])
    if newest - now > _CLOCKS_DIFFER:
        reason = (
            f"The clock says {now.isoformat(timespec='seconds')}, and the audit log's newest entry is of "
            f"{newest.isoformat(timespec='seconds')}: it was set back, so how long version {version} has waited is not known. "
            "Set the clock, then `finsent promote` lets the gate decide again."
        )
        return RuleResult("approval_in_time", None, hours, "missing", reason)
    if now <= until:
        return None
    reason = (
        f"The approval of version {version} comes too late: it could be given until {until.isoformat(timespec='seconds')} "
        f"(`gate.approval_expires_hours` is {hours:g}). `finsent promote` lets the gate decide again."
    )
    waited = round(hours + (now - until).total_seconds() / 3600, 6)
    return RuleResult("approval_in_time", waited, hours, "fail", reason)


def format_manual_decision(registry: Registry, version: str | None) -> str:
    """What a person decided on a version that awaits approval no more, by the audit log."""
    name = registry.name
    if version is None:
        return f"No version of {name!r} waits for approval."
    words = {APPROVE: "approved", REJECT: "rejected", APPROVAL_VOID: "found to have no valid evidence any more"}
    entries = [e for e in audit_log.read(registry.workspace.audit_log, name, version) if e.get("action") in words]
    if not entries:
        return f"Version {version} of {name!r} does not wait for approval."
    last = entries[-1]
    return (
        f"Version {version} of {name!r} was {words[last['action']]} at {last['at'][:19]} UTC by {last.get('who')}: "
        f"{last.get('why')}"
    )


def approval_request(registry: Registry, rules: GateConfig, version: str | None) -> ApprovalRequest | None:
    """What to ask a person about the version, by default whichever waits; None if it does not await approval. Reads only.

    Raises:
        InputError: there is no such version.
    """
    carried = registry.aliases()
    challenger, champion = carried.get(CHALLENGER), registry.champion()
    if challenger is None or (version is not None and version != challenger):
        if version is not None:
            registry.get_version(version)
        return None
    waiting = registry.get_version(challenger)
    evidence = load_verified_evidence(registry, waiting).evidence
    against = f"champion {champion}" if champion else "no champion yet"
    lines = [f"Version {challenger} passed the gate against {against}.", str(waiting.tags.get("gate_reasons", ""))]
    if evidence.metrics is not None:
        lines.append(f"Accuracy {evidence.metrics['accuracy']:.4f}, macro-F1 {evidence.metrics['macro_f1']:.4f}.")
    if evidence.champion is not None:
        lines.append(format_power(evidence.champion["power"], short=True))
    text = "\n\n".join(line for line in lines if line)
    until = expires_at(registry, rules, challenger)
    return ApprovalRequest(registry.name, challenger, champion, until, text, _other_rules(registry, rules, challenger))
