"""The promotion step: judge a version, record the decision, move the alias. Also approval, rejection, rollback, dry run.

Order matters: a decision is in the audit log, in its mirror and on the version's tags before it takes effect, so a process
killed in between has decided without acting; the same command again decides again and finishes. No alias moves to a
version whose artifact is not, byte for byte, the one that its evidence is about.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from finsent.errors import CheckFailed, TrackingError
from finsent.registry import aliases, approvals, audit_log, promotion
from finsent.registry.aliases import DecidedMeanwhile, set_challenger, set_champion
from finsent.registry.approvals import ApprovalRequest
from finsent.registry.audit_log import EntryKey
from finsent.registry.audit_mirror import append_entry
from finsent.registry.champion import current_champion
from finsent.registry.client import CHALLENGER, VersionTag, version_number
from finsent.registry.gate import Decision
from finsent.registry.promotion import Judgement, PromotionResult
from finsent.steps.context import Context
from finsent.steps.report import publish_decision

__all__ = ["ApprovalRequest", "PromotionResult"]
_log = logging.getLogger(__name__)
_OUTCOMES: Final = {audit_log.APPROVE: "approved", audit_log.REJECT: "rejected"}


def promote(context: Context, *, version: str | None = None) -> PromotionResult:
    """Let the gate decide on the version's evidence, the newest version's by default: judge, record, move the alias.

    A version that passes becomes champion, or challenger where `gate.approval` is `required`.

    Raises:
        InputError: there is no such version, or none at all.
        CheckFailed: the audit log was tampered with.
        ServiceError: MLflow does not answer. Nothing has moved.
    """
    judged = judge(context, version or context.registry.latest_version())
    return move_alias(context, record(context, judged))


def judge(context: Context, version: str) -> Judgement:
    """Decide on the version's evidence against the champion of now. Reads only; raises as `promote`."""
    return promotion.judge(context.registry, context.config.gate, version_number(version))


def record(
    context: Context, judged: Judgement, action: str = audit_log.GATE, who: str | None = None, why: str | None = None
) -> Judgement:
    """Write the decision to the audit log and the version's tags, and render report and card with it; no alias moves.

    The pages keep a person's decision, with the rules that it was based on. A version that is the champion already is left alone.
    Returns what was recorded: a refusal, where the version was to be promoted and somebody else decided since it was judged.

    Raises:
        DecidedMeanwhile: it was to be refused, and somebody else decided since it was judged. Nothing is recorded.
        CheckFailed: the audit log was tampered with.
        ServiceError: MLflow does not answer.
    """
    if judged.version == judged.champion:
        return judged
    decision, rules = judged.decision, context.config.gate
    author: dict[EntryKey, str | None] = {"who": who, "why": why} if who is not None else {}
    try:
        promotion.record_decision(context.registry, rules, judged, action, author)
    except DecidedMeanwhile as error:
        if decision.decision == "refuse":
            raise
        return record(context, replace(judged, decision=Decision("refuse", decision.rules, (str(error),))))
    if judged.blocked and action == audit_log.GATE:
        return judged
    passed, waits = decision.decision == "promote", action == audit_log.GATE and rules.approval == "required"
    outcome = ("pending_approval" if waits else _OUTCOMES.get(action, "promoted")) if passed else "refused"
    publish_decision(context.registry, judged.version, "rejected" if action == audit_log.REJECT else outcome, decision, author)
    return judged


def move_alias(context: Context, judged: Judgement) -> PromotionResult:
    """Make the version champion, or challenger where a person must approve; archive a challenger that was refused.

    Raises:
        ServiceError: MLflow does not answer.
    """
    registry = context.registry
    if judged.version == judged.champion:
        return promotion.complete_promotion(registry, judged.version)
    if judged.decision.decision == "refuse":
        return promotion.end_refusal(registry, judged)
    if context.config.gate.approval != "required":
        return promote_to_champion(context, judged)
    try:
        set_challenger(registry, judged.version, datetime.now(UTC))
    except CheckFailed as error:  # rejected or rolled back since it was judged
        return _lost(context, judged, error)
    return judged.result("pending_approval", judged.champion)


def promote_to_champion(
    context: Context, judged: Judgement, *, approval: Mapping[VersionTag, str] | None = None
) -> PromotionResult:
    """Compare and set the alias: refused and recorded where the champion changed or somebody decided otherwise meanwhile.

    With `approval`, what the version is tagged with, also where it does not wait for one any more.
    """
    try:
        set_champion(context.registry, judged.version, judged.champion, approval=approval)
    except CheckFailed as error:
        return _lost(context, judged, error)
    return judged.result("promoted", context.registry.champion())


def _lost(context: Context, judged: Judgement, error: CheckFailed) -> PromotionResult:
    lost = replace(judged, decision=Decision("refuse", judged.decision.rules, (str(error),)))
    record(context, lost)  # somebody else's decision came first
    return promotion.end_refusal(context.registry, lost)


def approve(context: Context, version: str | None, who: str, why: str) -> PromotionResult:
    """Make a waiting challenger champion, `version` None meaning whichever waits.

    The version is judged once more. If the champion changed meanwhile, or the version has waited for longer than
    `gate.approval_expires_hours`, the approval is void: recorded, and nothing else moves.

    Raises:
        InputError: no name or reason given, or no such version.
        CheckFailed: the version does not await approval, the configuration's rules are not those that it was evaluated under
            (it waits on then), or the audit log was tampered with.
    """
    promotion.require_author_and_reason(who, why)
    registry, rules = context.registry, context.config.gate
    champion = current_champion(registry)
    version = version_number(version) or registry.aliases().get(CHALLENGER)
    if version is not None and champion == version:
        return promotion.complete_promotion(registry, version)
    version = approvals.require_awaiting_approval(registry, rules, version)
    judged = promotion.judge_version(registry, rules, version, champion)
    if (late := approvals.approval_overdue(registry, rules, version)) is not None:
        judged = replace(judged, decision=Decision("refuse", (late, *judged.decision.rules), (late.reason,)))
    if judged.decision.decision == "refuse":
        record(context, judged, audit_log.APPROVAL_VOID, who, why)
        if judged.blocked:  # a rejection that was cut short
            return promotion.end_refusal(registry, judged)
        registry.set_tags(version, {"approval": "void"})
        # its evidence may still hold: a version that only waited too long can go before the gate again
        return promotion.end_refusal(registry, judged, aliases.CANDIDATE if late else aliases.ARCHIVED)
    judged = record(context, judged, audit_log.APPROVE, who, why)
    if judged.decision.decision == "refuse":
        return promotion.end_refusal(registry, judged)
    return promote_to_champion(context, judged, approval={"approval": "approved", "approved_by": who, "approved_why": why})


def reject(context: Context, version: str | None, who: str, why: str) -> PromotionResult:
    """Turn a waiting challenger down. It is not promoted later unless its tag `approval` is deleted in MLflow.

    Raises:
        InputError: no name or reason given, or no such version.
        CheckFailed: as of `approve`; or somebody else decided meanwhile.
    """
    promotion.require_author_and_reason(who, why)
    registry = context.registry
    version = approvals.require_awaiting_approval(registry, context.config.gate, version_number(version))
    judged = judge(context, version)  # its rules are what the person based the rejection on
    judged = replace(judged, decision=Decision("refuse", judged.decision.rules, (f"Rejected by {who}: {why}",)))
    record(context, judged, audit_log.REJECT, who, why)
    tags: dict[VersionTag, str] = {"approval": "rejected", "rejected_by": who, "rejected_why": why}
    return promotion.end_refusal(registry, judged, tags=tags)


def rollback(context: Context, who: str, why: str) -> PromotionResult:
    """Give the alias back to the version that the champion replaced, at once and without the gate.

    Its artifact is checked first. The version rolled back from is not promoted again unless its tag `rolled_back` is
    deleted in MLflow.

    Raises:
        InputError: no name or reason given.
        NoChampionError: nothing to roll back.
        CheckFailed: the champion replaced no version, or the audit log was tampered with.
    """
    promotion.require_author_and_reason(who, why)
    registry = context.registry
    current, target = aliases.plan_rollback(registry)
    rules = promotion.check_rollback_target(registry, registry.get_version(target))
    failed = tuple(rule for rule in rules if rule.status != "pass")
    reasons = tuple(rule.reason for rule in failed) or (f"Rolled back from version {current} to {target} by {who}: {why}",)
    entry: dict[EntryKey, Any] = {
        "action": audit_log.ROLLBACK,
        "from": current,
        "to": target,
        "champion": current,
        "manifest_sha256": registry.get_version(target).tags.get("manifest_sha256"),
        "who": who,
        "why": why,
    }
    with aliases.while_unchanged(registry, aliases.find_rollback, (current, target)):
        append_entry(registry, target, {**entry, "decision": "refuse" if failed else "promote", "reasons": list(reasons)})
    if failed:
        return PromotionResult(target, "refused", reasons, failed, current, registry.champion())
    # before the alias moves: whoever repeats a command that failed here must not roll back twice
    if registry.find_version(current) is not None:
        try:
            publish_decision(registry, current, "rolled_back", Decision("refuse", (), reasons), {"who": who, "why": why})
        except TrackingError as error:  # its run is gone for good, and an emergency does not wait for a page
            _log.warning("%s The rollback goes on without that page.", error)
    try:
        aliases.rollback(registry, (current, target))
    except CheckFailed as error:  # another decision came first
        append_entry(registry, target, {**entry, "decision": "refuse", "reasons": [str(error)]})
        raise
    return PromotionResult(target, "promoted", reasons, rules, current, registry.champion())


def adopt(context: Context, who: str, why: str) -> PromotionResult:
    """Take over, as a person's decision and without the gate, what MLflow says and the audit log does not.

    That is the version that the alias was set to by hand, or that there is no champion, since it was deleted.

    Raises:
        InputError: no name or reason given.
        CheckFailed: alias and audit log agree, or the version was rejected, rolled back or changed.
    """
    promotion.require_author_and_reason(who, why)
    return promotion.record_adoption(context.registry, who, why)


def get_approval_request(context: Context, version: str | None) -> ApprovalRequest | None:
    """What to ask a person about the version, by default whichever waits; None if it does not await approval. Reads only.

    Raises:
        InputError: there is no such version.
    """
    return approvals.approval_request(context.registry, context.config.gate, version_number(version) or None)


def decision_summary(context: Context, version: str | None) -> str:
    """What a person decided on a version that awaits approval no more."""
    return approvals.format_manual_decision(context.registry, version_number(version) or None)
