"""Promotion around the gate: judging a version, recording the decision, manual blocks, rollback targets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from finsent.config import GateConfig
from finsent.errors import CheckFailed, InputError
from finsent.models.manifest import verify_manifest
from finsent.registry import audit_log
from finsent.registry.aliases import (
    ARCHIVED,
    archive_challenger,
    manual_block_reason,
    reconcile_aliases,
    restore_champion,
    set_champion,
    while_unchanged,
    while_undecided,
)
from finsent.registry.audit_log import ADOPT, APPROVAL_VOID, APPROVE, REJECT, EntryKey
from finsent.registry.audit_mirror import append_entry
from finsent.registry.champion import champion_state, is_there
from finsent.registry.client import CHALLENGER, Registry, VersionTag
from finsent.registry.evidence_store import changed_rules, load_verified_evidence, recorded_evidence, stored_decision
from finsent.registry.gate import Decision, GateInput, RuleResult, evaluate_gate, rules_digest
from finsent.registry.verification import check_artifact_integrity, unverified_origin

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


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
class Judgement:
    """A decision on a version, and what it rests on. Nothing is recorded yet."""

    version: str
    decision: Decision
    evidence_sha256: str | None
    """Of the evidence's file; None if there is none."""
    champion: str | None
    """Champion that the decision rests on."""
    blocked: bool = False
    """Whether a person's earlier decision settled it."""

    def result(self, outcome: Literal["promoted", "pending_approval", "refused"], champion_after: str | None) -> PromotionResult:
        """What became of the version."""
        return PromotionResult(self.version, outcome, self.decision.reasons, self.decision.rules, self.champion, champion_after)


def judge(registry: Registry, rules: GateConfig, version: str) -> Judgement:
    """Decide on the version against the champion of now; a version that is champion already may take its alias again.

    Where the alias is not where the audit log's decisions put it, only their champion is let through: its alias is brought back.

    Raises:
        InputError: there is no such version.
        CheckFailed: the alias is not where the audit log's decisions put it.
        ServiceError: MLflow does not answer.
    """
    state = champion_state(registry)
    if state.problem is not None and (version != state.recorded or version == state.alias or state.lost):
        raise CheckFailed(state.problem)
    champion = state.recorded if state.problem is not None else state.alias
    if version == champion:
        return Judgement(version, Decision("promote", (), (f"Version {version} is the champion already.",)), None, champion)
    return judge_version(registry, rules, version, champion)


def judge_version(registry: Registry, rules: GateConfig, version: str, champion: str | None) -> Judgement:
    """A person's earlier decision, else the gate's on the verified evidence, with the artifact's integrity checked.

    The gate's decision is taken from the audit log entry of the evaluation if evidence, rules and champion are still those of
    then; otherwise the gate is evaluated again.

    Raises:
        InputError: there is no such version.
        ServiceError: MLflow does not answer.
    """
    record = registry.get_version(version)
    stored = load_verified_evidence(registry, record)
    if block := manual_block(registry, record):
        return Judgement(version, block, stored.sha256, champion, blocked=True)
    inputs = GateInput(stored.sha256, rules_digest(rules), champion)
    if stored.problem is not None:  # and then there is nothing to compare the artifact with
        decision = evaluate_gate(stored.evidence, rules, champion)
        rule = RuleResult("evidence", None, None, "missing", stored.problem)
        decision = Decision("refuse", (rule, *decision.rules), (stored.problem, *decision.reasons))
        return Judgement(version, decision, stored.sha256, champion)
    entry = recorded_evidence(registry, version)
    decision = stored_decision(entry, inputs) or evaluate_gate(stored.evidence, rules, champion)
    decision = _name_changed_rules(decision, changed_rules(entry, rules))
    return Judgement(version, with_artifact(registry, record, decision, stored.evidence.manifest_sha256), stored.sha256, champion)


def record_decision(
    registry: Registry, rules: GateConfig, judged: Judgement, action: str, author: Mapping[EntryKey, str | None]
) -> None:
    """Append the decision to the audit log, with its mirror, and tag the version with it. Moves nothing.

    Raises:
        DecidedMeanwhile: somebody else decided since it was judged. Nothing is recorded.
        CheckFailed: the audit log was tampered with.
        ServiceError: MLflow does not answer.
    """
    decision = judged.decision
    entry: dict[EntryKey, Any] = {
        "action": action,
        "decision": decision.decision,
        "reasons": list(decision.reasons),
        "rules": [asdict(rule) for rule in decision.rules],
        "gate": rules.model_dump(mode="json"),
        "champion": judged.champion,
        "evidence_sha256": judged.evidence_sha256,
        "manifest_sha256": registry.get_version(judged.version).tags.get("manifest_sha256"),
        **author,
    }
    awaits, refusal = action in {APPROVE, REJECT, APPROVAL_VOID}, decision.decision == "refuse"
    with while_undecided(registry, judged.version, champion=judged.champion, awaits_approval=awaits, refusal=refusal):
        # a version that waits already is asked for anew: that is another decision, with a time of its own
        append_entry(registry, judged.version, entry, counts_again=registry.aliases().get(CHALLENGER) == judged.version)
    passed = decision.decision == "promote"
    tags: dict[VersionTag, object] = {
        "gate": "passed" if passed else "refused",
        "gate_reasons": " ".join(decision.reasons)[:5000],
    }
    registry.set_tags(judged.version, tags)


def complete_promotion(registry: Registry, version: str) -> PromotionResult:
    """Finish a promotion of the champion that was cut short, or bring its alias back where it was moved or deleted by hand.

    Raises:
        CheckFailed: the alias is to come back to a version whose artifact is not the one that was promoted.
    """
    state = champion_state(registry)
    if state.entry is None or state.problem is None:
        set_champion(registry, version, version)
        return PromotionResult(version, "promoted", (f"Version {version} is the champion already.",), (), version, version)
    record = registry.get_version(version)
    if block := manual_block(registry, record):
        raise CheckFailed(f"the alias 'champion' is not brought back to version {version}: {block.reasons[0]}")
    rule = check_artifact_integrity(registry, record, state.entry.get("manifest_sha256"), "the audit log's decision")
    if rule.status != "pass":
        raise CheckFailed(f"the alias 'champion' is not brought back to version {version}: {rule.reason}")
    restore_champion(registry, version)
    reason = f"The alias is back on version {version}, champion by the audit log's entry {state.entry['seq']}."
    return PromotionResult(version, "promoted", (reason,), (rule,), state.alias, version)


def record_adoption(registry: Registry, who: str, why: str) -> PromotionResult:
    """Record as a person's decision that the alias stands where it is, or that there is no champion; the gate is not asked.

    Raises:
        CheckFailed: the alias is where the audit log's decisions put it, its version was rejected or rolled back, or its
            artifact is not what was registered.
    """
    state = champion_state(registry)
    if state.problem is None:
        stands = f"version {state.alias}" if state.alias else "no version"
        raise CheckFailed(f"there is nothing to adopt: by alias and audit log, {stands} of {registry.name!r} is the champion.")
    rules: tuple[RuleResult, ...] = ()
    manifest = None
    if state.alias is None and not state.lost:
        raise CheckFailed(f"that there is no champion is adopted only where it was deleted, and {state.problem}")
    if state.alias is not None:
        record = registry.get_version(state.alias)
        manifest = record.tags.get("manifest_sha256")
        block = manual_block(registry, record)
        rules = (*(block.rules if block else ()), check_artifact_integrity(registry, record, manifest, "the registry"))
    if failed := [rule.reason for rule in rules if rule.status != "pass"]:
        raise CheckFailed(f"version {state.alias} is not adopted as champion: {' '.join(failed)}")
    now, before = (f"version {version}" if version else "none" for version in (state.alias, state.recorded))
    reason = f"Champion by {who}'s decision and without the gate: {now}; by the decision before: {before}. Why: {why}"
    entry: dict[EntryKey, Any] = {"action": ADOPT, "decision": "promote", "reasons": [reason], "who": who, "why": why}
    entry |= {"from": state.recorded, "to": state.alias, "champion": state.recorded, "manifest_sha256": manifest}
    with while_unchanged(registry, _alias_and_record, (state.alias, state.recorded)):
        append_entry(registry, state.alias or str(state.recorded), entry)
        if state.alias is not None:
            there = state.recorded != state.alias and not state.lost  # as the version that it was, which could come back
            registry.set_tags(state.alias, {"replaces": (state.recorded if there else None) or ""})
        reconcile_aliases(registry)
    return PromotionResult(str(state.alias or state.recorded), "promoted", (reason,), rules, state.recorded, state.alias)


def _alias_and_record(registry: Registry) -> tuple[str | None, str | None]:
    state = champion_state(registry)
    return state.alias, state.recorded


def end_refusal(
    registry: Registry,
    judged: Judgement,
    stage: Literal["Candidate", "Archived"] = ARCHIVED,
    tags: Mapping[VersionTag, str] | None = None,
) -> PromotionResult:
    """End a refusal: a version that awaited approval does so no more, and is tagged."""
    if tags or registry.aliases().get(CHALLENGER) == judged.version:
        archive_challenger(registry, judged.version, stage, tags)
    return judged.result("refused", registry.champion())


def manual_block(registry: Registry, record: "ModelVersion") -> Decision | None:
    """A refusal of a version that a person rejected or rolled back: such decisions outlast the gate's."""
    what = manual_block_reason(registry, record)
    if what is None:
        return None
    tag = "approval" if what == "rejected" else "rolled_back"
    reason = f"Version {record.version} was {what}. Train anew, or delete its tag {tag!r} in MLflow to let it in again."
    return Decision("refuse", (RuleResult(f"not_{tag}", what, None, "fail", reason),), (reason,))


def with_artifact(registry: Registry, record: "ModelVersion", decision: Decision, manifest_sha256: str | None) -> Decision:
    """The decision with the rule that the registered artifact is, byte for byte, the one that the evidence is about.

    Raises:
        ServiceError: MLflow does not answer.
    """
    rule = check_artifact_integrity(registry, record, manifest_sha256, "the evidence")
    found = [rule]
    if record.tags.get("imported") is not None and rule.status == "pass":  # older evidence may believe its manifest
        unverified = unverified_origin(registry, record, verify_manifest(registry.adapter_path(str(record.version))))
        if unverified:
            reason = f"It is not known whether it trained on these test rows: {unverified}."
            found.append(RuleResult("trained_here", "imported", None, "missing", reason))
    rules = (*decision.rules, *found)
    failed = [rule.reason for rule in found if rule.status != "pass" and rule.reason not in decision.reasons]
    if not failed:
        return Decision(decision.decision, rules, decision.reasons)
    return Decision("refuse", rules, (*failed, *(decision.reasons if decision.decision == "refuse" else ())))


def _name_changed_rules(decision: Decision, changed: tuple[str, ...]) -> Decision:
    """The decision with the changed settings named; the gate itself knows only their digests."""
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


def check_rollback_target(registry: Registry, record: "ModelVersion") -> tuple[RuleResult, ...]:
    """Rules of a rollback to the version: artifact unchanged, not rejected or rolled back itself, once champion.

    Raises:
        ServiceError: MLflow does not answer.
    """
    version = str(record.version)
    taken = recorded_evidence(registry, version)
    known = taken["manifest_sha256"] if taken else record.tags.get("manifest_sha256")  # of an audit log begun anew since
    artifact = check_artifact_integrity(registry, record, known, "the audit log" if taken else "the registry")
    block = manual_block(registry, record)
    return (*(block.rules if block else ()), artifact, *_never_champion(registry, version))


def _never_champion(registry: Registry, version: str) -> tuple[RuleResult, ...]:
    """A failed rule unless the audit log knows the version as champion: the registry's tags alone could name any version."""
    moves = audit_log.champion_moves(audit_log.read(registry.workspace.audit_log, registry.name))
    if any(audit_log.champion_after(move) == version and is_there(registry, move) for move in moves):
        return ()
    reason = (
        f"The audit log does not know version {version} of {registry.name!r} as a champion, only the registry does. To bring it "
        "back all the same, set the alias 'champion' in MLflow, then `finsent adopt --why ...`."
    )
    return (RuleResult("was_champion", None, version, "missing", reason),)


def require_author_and_reason(who: str, why: str) -> None:
    """Manual decisions have an author and a reason.

    Raises:
        InputError: one of them is empty.
    """
    if not who.strip() or not why.strip():
        raise InputError(f"a decision needs a name and a reason, and got who={who!r}, why={why!r}.")
