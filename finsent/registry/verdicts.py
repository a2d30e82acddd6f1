"""The gate's decision in the form in which a page tells it."""

from collections.abc import Sequence

from finsent.evaluation.wording import Verdict
from finsent.registry.gate import Decision, RuleResult


def would_say(decision: Decision, version: str) -> Verdict:
    """What the gate makes of evidence before anybody asked it for a promotion."""
    passed = decision.decision == "promote"
    said = "passes the gate as it stands, and is not promoted yet" if passed else "would be refused by the gate as it stands"
    return Verdict(f"Version {version} {said}", passed, decision.reasons, rule_rows(decision.rules))


def still_champion(version: str) -> Verdict:
    """What is said of the champion where it is measured again."""
    reason = "Measured again, with no champion to compare with; `finsent history` tells of its promotion."
    return Verdict(f"Version {version} is the champion: nothing is to be decided", favourable=True, reasons=(reason,))


def decided(
    version: str,
    outcome: str,
    reasons: Sequence[str],
    rules: Sequence[RuleResult],
    *,
    when: str | None = None,
    who: str | None = None,
    why: str | None = None,
) -> Verdict:
    """A decision that was made: `outcome` is promoted, pending_approval, refused, approved, rejected or rolled_back."""
    said = {
        "promoted": "was promoted: it is the champion",
        "approved": "was approved: it is the champion",
        "pending_approval": "passed the gate and waits for approval",
        "rejected": "was rejected by a person",
        "refused": "was refused by the gate",
        "rolled_back": "was champion and was rolled back",
    }[outcome]
    favourable = outcome in {"promoted", "approved", "pending_approval"}
    return Verdict(f"Version {version} {said}", favourable, tuple(reasons), rule_rows(rules), when, who, why)


def rule_rows(
    rules: Sequence[RuleResult],
) -> tuple[tuple[str, float | str | bool | None, float | str | bool | None, str, str], ...]:
    """Rules as plain rows."""
    return tuple((rule.name, rule.value, rule.threshold, rule.status, rule.reason) for rule in rules)
