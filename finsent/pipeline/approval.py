"""What people say of a version that passed the gate and waits: who, why, and for how long it may wait."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from finsent.errors import Refused
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.power import format_power
from finsent.pipeline.exhibit import changed_rules, find_evidence
from finsent.pipeline.promote import (
    GATE,
    REJECT,
    Case,
    PromotionResult,
    already_champion,
    barred,
    crown,
    judge,
    record_decision,
    refused,
    require_signature,
)
from finsent.registry import ledger, stages
from finsent.registry.client import CHALLENGER, Registry
from finsent.registry.gate import Decision, RuleResult
from finsent.steps.context import Context

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

APPROVE, VOID = "approve", "approval void"
"""Actions of ledger entries."""


@dataclass(frozen=True)
class Question:
    """What a person is asked."""

    model_name: str
    version: str
    champion: str | None
    expires_at: datetime | None
    """UTC; None if the ledger does not know since when the version waits."""
    text: str
    """Markdown: why the gate let it through, and what the test set can see."""


def approve(context: Context, version: str | None, who: str, why: str) -> PromotionResult:
    """Make a waiting challenger champion, `version` None meaning whichever waits.

    The gate decides once more. If the champion changed meanwhile, or the version has waited for longer than
    `gate.approval_expires_hours`, the approval is void: recorded, and nothing else moves.

    Raises:
        InputError: no name or reason given, or no such version.
        Refused: the version does not wait for approval, the configuration's rules are not those that it was evaluated under
            (it waits on then), or the ledger is not what it was.
    """
    registry = context.registry
    require_signature(who, why)
    before = registry.champion()
    version = version or registry.aliases().get(CHALLENGER)
    if version is not None and before == version:
        return already_champion(registry, version)
    record = _waiting(registry, version)
    _require_declared_rules(context, str(record.version))
    signed = {"who": who, "why": why}
    case = judge(context, record, before)
    if (late := _overdue(context, case.version)) is not None:
        case = Case(case.version, Decision("refuse", (late, *case.decision.rules), (late.reason,)), case.evidence_sha256, before)
    if case.decision.decision == "refuse":
        record_decision(context, case, action=VOID, signed=signed)
        if barred(registry, record):  # a rejection that was cut short
            return refused(registry, case)
        registry.set_tags(case.version, {"approval": "void"})
        # its evidence may still hold: a version that only waited too long can go before the gate again
        return refused(registry, case, stages.CANDIDATE if late else stages.ARCHIVED)
    record_decision(context, case, action=APPROVE, signed=signed)
    registry.set_tags(case.version, {"approval": "approved", "approved_by": who, "approved_why": why})
    return crown(context, case, waiting=True)


def reject(context: Context, version: str | None, who: str, why: str) -> PromotionResult:
    """Turn a waiting challenger down. It is not promoted later unless its tag `approval` is deleted in MLflow.

    Raises:
        InputError: no name or reason given, or no such version.
        Refused: as of `approve`.
    """
    registry = context.registry
    require_signature(who, why)
    record = _waiting(registry, version or registry.aliases().get(CHALLENGER))
    _require_declared_rules(context, str(record.version))
    before = registry.champion()
    reason = f"Rejected by {who}: {why}"
    passed = judge(context, record, before)  # what the person who turned it down had before them
    case = Case(passed.version, Decision("refuse", passed.decision.rules, (reason,)), passed.evidence_sha256, before)
    record_decision(context, case, action=REJECT, signed={"who": who, "why": why})
    registry.set_tags(case.version, {"approval": "rejected", "rejected_by": who, "rejected_why": why})
    return refused(registry, case)


def _require_declared_rules(context: Context, version: str) -> None:
    """A person's word under other rules would be about another decision than the one that waits."""
    config, home = context.config, context.workspace
    if changed := changed_rules(config, home, version):
        raise Refused(
            f"version {version!r} was evaluated under other rules than those of this configuration ({'; '.join(changed)}). It "
            "waits on: give the command the options that the evaluation had (--profile, --config, --set), or evaluate it again."
        )


def question(context: Context, version: str | None) -> Question | None:
    """What to ask a person about the version, by default whichever waits; None if it does not wait, or waits no more. Reads only.

    Raises:
        InputError: there is no such version.
    """
    home, registry = context.workspace, context.registry
    name = registry.name
    challenger = registry.aliases().get(CHALLENGER)
    if challenger is None or (version is not None and version != challenger):
        if version is not None:
            registry.get_version(version)
        return None
    record = registry.get_version(challenger)
    evidence = find_evidence(registry.client, home, record).evidence
    current = registry.champion()
    text = _asked(evidence, challenger, current, str(record.tags.get("gate_reasons", "")))
    return Question(name, challenger, current, expires_at(context, challenger), text)


def verdict_in_words(context: Context, version: str | None) -> str:
    """What was decided on a version that waits no more, by the ledger."""
    registry = context.registry
    name = registry.name
    if version is None:
        return f"No version of {name!r} waits for approval."
    decided = [e for e in _entries(registry, version) if e.get("action") in {APPROVE, REJECT, VOID}]
    if not decided:
        return f"Version {version} of {name!r} does not wait for approval."
    last = decided[-1]
    what = {APPROVE: "approved", REJECT: "rejected", VOID: "found to have no valid evidence any more"}[last["action"]]
    return f"Version {version} of {name!r} was {what} at {last['at'][:19]} UTC by {last.get('who')}: {last.get('why')}"


def expires_at(context: Context, version: str) -> datetime | None:
    """Until when (UTC) the version may be approved, by the ledger's entry of the gate's decision; None if there is none.

    The ledger decides and not the tag `approval_requested_at`, which whoever may write to MLflow can set.
    """
    config, registry = context.config, context.registry
    for entry in reversed(_entries(registry, version)):
        if entry.get("action") in {VOID, REJECT}:
            return None
        if entry.get("action") == GATE:
            waits = timedelta(hours=config.gate.approval_expires_hours)
            return datetime.fromisoformat(entry["at"]) + waits if entry.get("decision") == "promote" else None
    return None


def _entries(registry: Registry, version: str) -> list[dict[str, Any]]:
    return [e for e in ledger.read(registry.workspace.ledger) if (e.get("model"), e.get("version")) == (registry.name, version)]


def _overdue(context: Context, version: str) -> RuleResult | None:
    """The rule that an approval comes too late; None while it is in time."""
    config = context.config
    until, hours = expires_at(context, version), config.gate.approval_expires_hours
    if until is None:
        reason = f"The ledger does not say since when version {version} waits for approval: `finsent promote` asks anew."
        return RuleResult("approval_in_time", None, hours, "missing", reason)
    now = datetime.now(UTC)
    if now <= until:
        return None
    reason = (
        f"The approval of version {version} comes too late: it could be given until {until.isoformat(timespec='seconds')} "
        f"(`gate.approval_expires_hours` is {hours:g}). `finsent promote` lets the gate decide again."
    )
    waited = round(hours + (now - until).total_seconds() / 3600, 6)
    return RuleResult("approval_in_time", waited, hours, "fail", reason)


def _asked(evidence: Evidence, version: str, current: str | None, reasons: str) -> str:
    against = f"champion {current}" if current else "no champion yet"
    lines = [f"Version {version} passed the gate against {against}.", reasons]
    if evidence.metrics is not None:
        lines.append(f"Accuracy {evidence.metrics['accuracy']:.4f}, macro-F1 {evidence.metrics['macro_f1']:.4f}.")
    if evidence.champion is not None:
        lines.append(format_power(evidence.champion["power"], short=True))
    return "\n\n".join(line for line in lines if line)


def _waiting(registry: Registry, version: str | None) -> "ModelVersion":
    """The registry's record of the challenger, which is what waits; its alias is the last thing to go in every decision."""
    name = registry.name
    challenger = registry.aliases().get(CHALLENGER)
    if version is None:
        raise Refused(f"no version of {name!r} waits for approval. `finsent promote` puts one there.")
    record = registry.get_version(version)
    if version != challenger:
        waits = f"version {challenger} does" if challenger else "none does; `finsent promote` puts one there"
        raise Refused(f"version {version!r} of {name!r} does not wait for approval: {waits}.")
    return record
