"""From evidence to a champion: the gate decides, the ledger records, and only then does an alias move.

Order matters: a decision is in the ledger, in its copy and on the version's tags before it takes effect, so a process
killed in between has decided without acting; the same command again decides again and finishes. No alias moves to a
version whose artifact is not, byte for byte, the one that its evidence is about.
"""

from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from finsent.errors import InputError, Refused
from finsent.pipeline.exhibit import Exhibit, changed_rules, find_evidence, recorded_evidence
from finsent.registry import ledger, stages
from finsent.registry.artifact import artifact_rule
from finsent.registry.client import CHALLENGER, Registry
from finsent.registry.gate import Decision, RuleResult, decide
from finsent.registry.witness import record as record_entry
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
        return already_champion(registry, version)
    case = judge(context, record, before)
    # what people said of it stays on its pages, with the rules that they had before them
    record_decision(context, case, tell=barred(registry, record) is None)
    if case.decision.decision == "refuse":
        return refused(registry, case)
    if config.gate.approval == "required":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        # tags before the alias: whatever waits has a time since when it does
        registry.set_tags(version, {"approval": "pending", "approval_requested_at": now})
        stages.make_challenger(registry, version)
        return PromotionResult(version, "pending_approval", case.decision.reasons, case.decision.rules, before, before)
    return crown(context, case)


def consider(context: Context, version: str) -> Decision:
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
    require_signature(who, why)
    name = registry.name
    current, target = stages.rollback_plan(registry)
    taken = recorded_evidence(home, name, target)
    record = registry.get_version(target)
    known = taken["manifest_sha256"] if taken else record.tags.get("manifest_sha256")  # of a ledger begun anew since
    rule = artifact_rule(registry, record, known, "the ledger" if taken else "the registry")
    entry: dict[str, Any] = {"action": ROLLBACK, "from": current, "to": target, "champion": current, "who": who, "why": why}
    down = barred(registry, record)
    against = (*(down.rules if down else ()), *((rule,) if rule.status != "pass" else ()), *_never_champion(registry, target))
    if against:
        reasons = tuple(item.reason for item in against)
        record_entry(config, home, registry.client, target, {**entry, "decision": "refuse", "reasons": list(reasons)})
        return PromotionResult(target, "refused", reasons, against, current, registry.champion())
    reason = f"Rolled back from version {current} to {target} by {who}: {why}"
    record_entry(config, home, registry.client, target, {**entry, "decision": "promote", "reasons": [reason]})
    # before the alias moves: whoever repeats a command that failed here must not roll back twice
    _tell(context, current, "rolled_back", Decision("refuse", (), (reason,)), {"who": who, "why": why})
    stages.rollback(registry, (current, target))
    return PromotionResult(target, "promoted", (reason,), (rule,), current, registry.champion())


def _never_champion(registry: Registry, version: str) -> tuple[RuleResult, ...]:
    """A failed rule unless the ledger knows the version as champion: the registry's tags alone could name any version."""
    for entry in ledger.read(registry.workspace.ledger):
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
    exhibit = find_evidence(registry.client, home, record)
    decision = barred(registry, record) or _decide(context, record, exhibit, current_champion)
    return Case(str(record.version), decision, exhibit.sha256, current_champion)


def barred(registry: Registry, record: "ModelVersion") -> Decision | None:
    """People's decisions outlast the gate's: what was rejected or rolled back does not return by itself."""
    what = stages.turned_down_by(registry, record)
    if what is None:
        return None
    tag = "approval" if what == "rejected" else "rolled_back"
    reason = f"Version {record.version} was {what}. Train anew, or delete its tag {tag!r} in MLflow to let it in again."
    return Decision("refuse", (RuleResult(f"not_{tag}", what, None, "fail", reason),), (reason,))


def _decide(context: Context, record: "ModelVersion", exhibit: Exhibit, current_champion: str | None) -> Decision:
    config, home, registry = context.config, context.workspace, context.registry
    decision = decide(exhibit.evidence, config.gate, current_champion)
    if exhibit.problem is not None:  # and then there is nothing that the artifact could be held against
        rule = RuleResult("evidence", None, None, "missing", exhibit.problem)
        return Decision("refuse", (rule, *decision.rules), (exhibit.problem, *decision.reasons))
    decision = _naming_rules(decision, changed_rules(config, home, str(record.version)))
    artifact = artifact_rule(registry, record, exhibit.evidence.manifest_sha256, "the evidence")
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


def crown(context: Context, case: Case, *, waiting: bool = False) -> PromotionResult:
    """Move the alias, provided that the champion is still the one that the decision rests on and nobody decided otherwise.

    `waiting`: the version is to be the challenger still.
    """
    registry = context.registry
    decision = case.decision
    try:
        stages.make_champion(registry, case.version, case.champion, waiting=waiting)
    except Refused as error:  # somebody else's promotion came first
        lost = Case(case.version, Decision("refuse", decision.rules, (str(error),)), case.evidence_sha256, case.champion)
        record_decision(context, lost)
        return refused(registry, lost)
    return PromotionResult(case.version, "promoted", decision.reasons, decision.rules, case.champion, registry.champion())


def refused(registry: Registry, case: Case, to: Literal["Candidate", "Archived"] = stages.ARCHIVED) -> PromotionResult:
    """End a refusal: a version that waited waits no more."""
    if registry.aliases().get(CHALLENGER) == case.version:
        stages.stand_down(registry, case.version, to)
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
    from finsent.pipeline.publishing import publish_decision
    from finsent.reporting.summaries import final_decision

    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    verdict = final_decision(version, outcome, decision.reasons, map(astuple, decision.rules), when=now, **signed)
    publish_decision(registry, registry.get_version(version), verdict)


def already_champion(registry: Registry, version: str) -> PromotionResult:
    """Finish a promotion that was cut short."""
    stages.make_champion(registry, version, version)
    return PromotionResult(version, "promoted", (f"Version {version} is the champion already.",), (), version, version)


def require_signature(who: str, why: str) -> None:
    """Decisions of people have a name and a reason.

    Raises:
        InputError: one of them is empty.
    """
    if not who.strip() or not why.strip():
        raise InputError(f"a decision needs a name and a reason, and got who={who!r}, why={why!r}.")
