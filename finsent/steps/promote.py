"""From evidence to a champion: the gate decides, the ledger records, and only then does an alias move.

Order matters: a decision is in the ledger, in its copy and on the version's tags before it takes effect, so a process
killed in between has decided without acting; the same command again decides again and finishes. No alias moves to a
version whose artifact is not, byte for byte, the one that its evidence is about.
"""

from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from finsent.errors import InputError, Refused
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.power import format_power
from finsent.registry import aliases, audit_log
from finsent.registry.audit_mirror import append_entry as record_entry
from finsent.registry.client import CHALLENGER, Registry
from finsent.registry.evidence_store import StoredEvidence, changed_rules, load_verified_evidence, recorded_evidence
from finsent.registry.gate import Decision, RuleResult, evaluate_gate
from finsent.registry.verification import check_artifact_integrity
from finsent.steps.context import Context

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GATE, REJECT, ROLLBACK = "gate", "reject", "rollback"
"""Actions of ledger entries: the gate decided on a version, a person went back to one."""


@dataclass(frozen=True)
class PromotionResult:
    """What became of a version."""

    model_version: str
    decision: Literal["promoted", "pending_approval", "refused"]
    reasons: tuple[str, ...]
    rules: tuple[RuleResult, ...]
    champion_before: str | None
    champion_after: str | None


@dataclass(frozen=True)
class Case:
    """A version before the gate, and all that the decision rests on."""

    version: str
    decision: Decision
    evidence_sha256: str | None
    """Of the evidence's file; None if there is none."""
    champion: str | None
    """Champion at that moment."""


def promote(context: Context, *, version: str | None = None) -> PromotionResult:
    """Let the gate decide on the version's evidence, the newest version's by default.

    A version that passes becomes champion, or challenger where `gate.approval` is `required`.

    Raises:
        InputError: there is no such version, or none at all.
        Refused: the ledger is not what it was.
        ServiceError: MLflow does not answer. Nothing has moved.
    """
    config, registry = context.config, context.registry
    version = version or registry.latest_version()
    record = registry.get_version(version)
    before = registry.champion()
    if before == version:
        return complete_promotion(registry, version)
    case = judge(context, record, before)
    # what people said of it stays on its pages, with the rules that they had before them
    record_decision(context, case, tell=manual_block(registry, record) is None)
    if case.decision.decision == "refuse":
        return refused(registry, case)
    if config.gate.approval == "required":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        # tags before the alias: whatever waits has a time since when it does
        registry.set_tags(version, {"approval": "pending", "approval_requested_at": now})
        aliases.set_challenger(registry, version)
        return PromotionResult(version, "pending_approval", case.decision.reasons, case.decision.rules, before, before)
    return promote_to_champion(context, case)


def preview_decision(context: Context, version: str) -> Decision:
    """What the gate would say of the version now. Nothing is recorded and nothing moves: that is `promote`'s.

    Raises:
        InputError: there is no such version.
    """
    registry = context.registry
    return judge(context, registry.get_version(version), registry.champion()).decision


def rollback(context: Context, who: str, why: str) -> PromotionResult:
    """Give the alias back to the version that the champion replaced, at once and without the gate.

    Its artifact is checked first. The version rolled back from is not promoted again unless its tag `rolled_back` is
    deleted in MLflow.

    Raises:
        InputError: no name or reason given.
        NoChampionError: nothing to roll back.
        Refused: the champion replaced no version, or the ledger is not what it was.
    """
    config, home, registry = context.config, context.workspace, context.registry
    require_author_and_reason(who, why)
    name = registry.name
    current, target = aliases.plan_rollback(registry)
    taken = recorded_evidence(home, name, target)
    record = registry.get_version(target)
    known = taken["manifest_sha256"] if taken else record.tags.get("manifest_sha256")  # of a ledger begun anew since
    rule = check_artifact_integrity(registry, record, known, "the ledger" if taken else "the registry")
    entry: dict[str, Any] = {"action": ROLLBACK, "from": current, "to": target, "champion": current, "who": who, "why": why}
    down = manual_block(registry, record)
    against = (*(down.rules if down else ()), *((rule,) if rule.status != "pass" else ()), *_never_champion(registry, target))
    if against:
        reasons = tuple(item.reason for item in against)
        record_entry(config, home, registry.client, target, {**entry, "decision": "refuse", "reasons": list(reasons)})
        return PromotionResult(target, "refused", reasons, against, current, registry.champion())
    reason = f"Rolled back from version {current} to {target} by {who}: {why}"
    record_entry(config, home, registry.client, target, {**entry, "decision": "promote", "reasons": [reason]})
    # before the alias moves: whoever repeats a command that failed here must not roll back twice
    _tell(context, current, "rolled_back", Decision("refuse", (), (reason,)), {"who": who, "why": why})
    aliases.rollback(registry, (current, target))
    return PromotionResult(target, "promoted", (reason,), (rule,), current, registry.champion())


def _never_champion(registry: Registry, version: str) -> tuple[RuleResult, ...]:
    """A failed rule unless the ledger knows the version as champion: the registry's tags alone could name any version."""
    for entry in audit_log.read(registry.workspace.ledger):
        promoted = entry.get("version") == version and entry.get("decision") == "promote"
        if entry.get("model") == registry.name and (promoted or entry.get("champion") == version):
            return ()
    reason = (
        f"The ledger does not know version {version} of {registry.name!r} as a champion, only the registry does. To bring it "
        "back all the same, set the alias `champion` in MLflow."
    )
    return (RuleResult("was_champion", None, version, "missing", reason),)


def judge(context: Context, record: "ModelVersion", current_champion: str | None) -> Case:
    """What people decided before, what the gate says of the evidence, and whether the artifact is what it is about.

    Raises:
        ServiceError: MLflow does not answer.
    """
    home, registry = context.workspace, context.registry
    exhibit = load_verified_evidence(registry.client, home, record)
    decision = manual_block(registry, record) or _decide(context, record, exhibit, current_champion)
    return Case(str(record.version), decision, exhibit.sha256, current_champion)


def manual_block(registry: Registry, record: "ModelVersion") -> Decision | None:
    """People's decisions outlast the gate's: what was rejected or rolled back does not return by itself."""
    what = aliases.manual_block_reason(registry, record)
    if what is None:
        return None
    tag = "approval" if what == "rejected" else "rolled_back"
    reason = f"Version {record.version} was {what}. Train anew, or delete its tag {tag!r} in MLflow to let it in again."
    return Decision("refuse", (RuleResult(f"not_{tag}", what, None, "fail", reason),), (reason,))


def _decide(context: Context, record: "ModelVersion", exhibit: StoredEvidence, current_champion: str | None) -> Decision:
    config, home, registry = context.config, context.workspace, context.registry
    decision = evaluate_gate(exhibit.evidence, config.gate, current_champion)
    if exhibit.problem is not None:  # and then there is nothing that the artifact could be held against
        rule = RuleResult("evidence", None, None, "missing", exhibit.problem)
        return Decision("refuse", (rule, *decision.rules), (exhibit.problem, *decision.reasons))
    decision = _naming_rules(decision, changed_rules(config, home, str(record.version)))
    artifact = check_artifact_integrity(registry, record, exhibit.evidence.manifest_sha256, "the evidence")
    rules = (*decision.rules, artifact)
    if artifact.status == "pass":
        return Decision(decision.decision, rules, decision.reasons)
    return Decision("refuse", rules, (artifact.reason, *(decision.reasons if decision.decision == "refuse" else ())))


def _naming_rules(decision: Decision, changed: tuple[str, ...]) -> Decision:
    """The decision with the settings named that are not those declared; the gate itself knows their digests only."""
    if not changed:
        return decision
    named = {
        rule.reason: replace(rule, reason=f"{rule.reason} Set differently: {'; '.join(changed)}.")
        for rule in decision.rules
        if rule.name == "rules_declared" and rule.status != "pass"
    }
    rules = tuple(named.get(rule.reason, rule) for rule in decision.rules)
    reasons = tuple(named[reason].reason if reason in named else reason for reason in decision.reasons)
    return Decision(decision.decision, rules, reasons)


def promote_to_champion(context: Context, case: Case, *, waiting: bool = False) -> PromotionResult:
    """Move the alias, provided that the champion is still the one that the decision rests on and nobody decided otherwise.

    `waiting`: the version is to be the challenger still.
    """
    registry = context.registry
    decision = case.decision
    try:
        aliases.set_champion(registry, case.version, case.champion, waiting=waiting)
    except Refused as error:  # somebody else's promotion came first
        lost = Case(case.version, Decision("refuse", decision.rules, (str(error),)), case.evidence_sha256, case.champion)
        record_decision(context, lost)
        return refused(registry, lost)
    return PromotionResult(case.version, "promoted", decision.reasons, decision.rules, case.champion, registry.champion())


def refused(registry: Registry, case: Case, to: Literal["Candidate", "Archived"] = aliases.ARCHIVED) -> PromotionResult:
    """End a refusal: a version that waited waits no more."""
    if registry.aliases().get(CHALLENGER) == case.version:
        aliases.archive_challenger(registry, case.version, to)
    return PromotionResult(
        case.version, "refused", case.decision.reasons, case.decision.rules, case.champion, registry.champion()
    )


def record_decision(
    context: Context,
    case: Case,
    *,
    action: str = GATE,
    signed: dict[str, str] | None = None,
    tell: bool = True,
) -> None:
    """Ledger, its copy, the version's tags, and, with `tell`, the pages that people read; `signed` holds `who` and `why`.

    Raises:
        Refused: the ledger is not what it was.
        ServiceError: MLflow does not answer.
    """
    config, home, registry = context.config, context.workspace, context.registry
    decision = case.decision
    entry = {
        "action": action,
        "decision": decision.decision,
        "reasons": list(decision.reasons),
        "rules": [asdict(rule) for rule in decision.rules],
        "gate": config.gate.model_dump(mode="json"),
        "champion": case.champion,
        "evidence_sha256": case.evidence_sha256,
        **(signed or {}),
    }
    record_entry(config, home, registry.client, case.version, entry)
    verdict = "passed" if decision.decision == "promote" else "refused"
    tags = {"gate": verdict, "gate_reasons": " ".join(decision.reasons)[:5000]}
    registry.set_tags(case.version, tags)
    if tell:
        _publish(context, case, action, signed or {})


def _publish(context: Context, case: Case, action: str, signed: dict[str, str]) -> None:
    """The one place where report and card are rendered anew with a decision that was recorded; no alias has moved yet.

    Runs again when a killed command is run again, so it must replace what it wrote before.
    """
    config = context.config
    passed, waits = case.decision.decision == "promote", action == GATE and config.gate.approval == "required"
    outcome = "rejected" if action == REJECT else "refused" if not passed else "pending_approval" if waits else "promoted"
    if passed and signed:
        outcome = "approved"
    _tell(context, case.version, outcome, case.decision, signed)


def _tell(context: Context, version: str, outcome: str, decision: Decision, signed: dict[str, str]) -> None:
    registry = context.registry
    from finsent.reporting.summaries import final_decision
    from finsent.steps.report import publish_report

    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    verdict = final_decision(version, outcome, decision.reasons, map(astuple, decision.rules), when=now, **signed)
    publish_report(registry, registry.get_version(version), verdict)


def complete_promotion(registry: Registry, version: str) -> PromotionResult:
    """Finish a promotion that was cut short."""
    aliases.set_champion(registry, version, version)
    return PromotionResult(version, "promoted", (f"Version {version} is the champion already.",), (), version, version)


def require_author_and_reason(who: str, why: str) -> None:
    """Decisions of people have a name and a reason.

    Raises:
        InputError: one of them is empty.
    """
    if not who.strip() or not why.strip():
        raise InputError(f"a decision needs a name and a reason, and got who={who!r}, why={why!r}.")


# merged from finsent.steps.promote: What people say of a version that passed the gate and waits: who, why, and for how long it may wait.

APPROVE, VOID = "approve", "approval void"
"""Actions of ledger entries."""


@dataclass(frozen=True)
class ApprovalRequest:
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
    require_author_and_reason(who, why)
    before = registry.champion()
    version = version or registry.aliases().get(CHALLENGER)
    if version is not None and before == version:
        return complete_promotion(registry, version)
    record = _waiting(registry, version)
    _require_declared_rules(context, str(record.version))
    signed = {"who": who, "why": why}
    case = judge(context, record, before)
    if (late := _overdue(context, case.version)) is not None:
        case = Case(case.version, Decision("refuse", (late, *case.decision.rules), (late.reason,)), case.evidence_sha256, before)
    if case.decision.decision == "refuse":
        record_decision(context, case, action=VOID, signed=signed)
        if manual_block(registry, record):  # a rejection that was cut short
            return refused(registry, case)
        registry.set_tags(case.version, {"approval": "void"})
        # its evidence may still hold: a version that only waited too long can go before the gate again
        return refused(registry, case, aliases.CANDIDATE if late else aliases.ARCHIVED)
    record_decision(context, case, action=APPROVE, signed=signed)
    registry.set_tags(case.version, {"approval": "approved", "approved_by": who, "approved_why": why})
    return promote_to_champion(context, case, waiting=True)


def reject(context: Context, version: str | None, who: str, why: str) -> PromotionResult:
    """Turn a waiting challenger down. It is not promoted later unless its tag `approval` is deleted in MLflow.

    Raises:
        InputError: no name or reason given, or no such version.
        Refused: as of `approve`.
    """
    registry = context.registry
    require_author_and_reason(who, why)
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


def get_approval_request(context: Context, version: str | None) -> ApprovalRequest | None:
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
    evidence = load_verified_evidence(registry.client, home, record).evidence
    current = registry.champion()
    text = _asked(evidence, challenger, current, str(record.tags.get("gate_reasons", "")))
    return ApprovalRequest(name, challenger, current, expires_at(context, challenger), text)


def decision_summary(context: Context, version: str | None) -> str:
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
    return [
        e for e in audit_log.read(registry.workspace.ledger) if (e.get("model"), e.get("version")) == (registry.name, version)
    ]


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
