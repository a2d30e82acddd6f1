"""From evidence to a champion: the gate decides, the ledger records, and only then does an alias move.

Order matters: a decision is in the ledger, in its copy and on the version's tags before it takes effect, so a process
killed in between has decided without acting; the same command again decides again and finishes. No alias moves to a
version whose artifact is not, byte for byte, the one that its evidence is about.
"""

from dataclasses import asdict, astuple, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from finsent.config import Config
from finsent.errors import InputError, Refused
from finsent.home import Home
from finsent.pipeline.exhibit import Exhibit, changed_rules, find_evidence, recorded_evidence
from finsent.registry import ledger, stages
from finsent.registry.artifact import artifact_rule
from finsent.registry.gate import Decision, RuleResult, decide
from finsent.registry.tracking import connect
from finsent.registry.versions import CHALLENGER, aliases, champion, get_version, latest_version, set_tags
from finsent.registry.witness import record as record_entry

if TYPE_CHECKING:
    from mlflow import MlflowClient
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


def promote(config: Config, home: Home, *, version: str | None = None) -> PromotionResult:
    """Let the gate decide on the version's evidence, the newest version's by default.

    A version that passes becomes champion, or challenger where `gate.approval` is `required`.

    Raises:
        InputError: there is no such version, or none at all.
        Refused: the ledger is not what it was.
        ServiceError: MLflow does not answer. Nothing has moved.
    """
    name = config.registered_model
    version = version or latest_version(home, name)
    client = connect(home)
    record = get_version(client, name, version)
    before = champion(home, name)
    if before == version:
        return already_champion(home, name, version)
    case = judge(config, home, client, record, before)
    # what people said of it stays on its pages, with the rules that they had before them
    record_decision(config, home, client, case, tell=barred(client, record) is None)
    if case.decision.decision == "refuse":
        return refused(home, name, case)
    if config.gate.approval == "required":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        # tags before the alias: whatever waits has a time since when it does
        set_tags(client, name, version, {"approval": "pending", "approval_requested_at": now})
        stages.make_challenger(home, name, version)
        return PromotionResult(version, "pending_approval", case.decision.reasons, case.decision.rules, before, before)
    return crown(config, home, case)


def consider(config: Config, home: Home, version: str) -> Decision:
    """What the gate would say of the version now. Nothing is recorded and nothing moves: that is `promote`'s.

    Raises:
        InputError: there is no such version.
    """
    client, name = connect(home), config.registered_model
    return judge(config, home, client, get_version(client, name, version), champion(home, name)).decision


def rollback(config: Config, home: Home, who: str, why: str) -> PromotionResult:
    """Give the alias back to the version that the champion replaced, at once and without the gate.

    Its artifact is checked first. The version rolled back from is not promoted again unless its tag `rolled_back` is
    deleted in MLflow.

    Raises:
        InputError: no name or reason given.
        NoChampionError: nothing to roll back.
        Refused: the champion replaced no version, or the ledger is not what it was.
    """
    require_signature(who, why)
    name, client = config.registered_model, connect(home)
    current, target = stages.rollback_plan(home, name)
    taken = recorded_evidence(home, name, target)
    record = get_version(client, name, target)
    known = taken["manifest_sha256"] if taken else record.tags.get("manifest_sha256")  # of a ledger begun anew since
    rule = artifact_rule(home, record, known, "the ledger" if taken else "the registry")
    entry: dict[str, Any] = {"action": ROLLBACK, "from": current, "to": target, "champion": current, "who": who, "why": why}
    down = barred(client, record)
    against = (*(down.rules if down else ()), *((rule,) if rule.status != "pass" else ()), *_never_champion(home, name, target))
    if against:
        reasons = tuple(item.reason for item in against)
        record_entry(config, home, client, target, {**entry, "decision": "refuse", "reasons": list(reasons)})
        return PromotionResult(target, "refused", reasons, against, current, champion(home, name))
    reason = f"Rolled back from version {current} to {target} by {who}: {why}"
    record_entry(config, home, client, target, {**entry, "decision": "promote", "reasons": [reason]})
    # before the alias moves: whoever repeats a command that failed here must not roll back twice
    _tell(config, home, current, "rolled_back", Decision("refuse", (), (reason,)), {"who": who, "why": why})
    stages.rollback(home, name, (current, target))
    return PromotionResult(target, "promoted", (reason,), (rule,), current, champion(home, name))


def _never_champion(home: Home, name: str, version: str) -> tuple[RuleResult, ...]:
    """A failed rule unless the ledger knows the version as champion: the registry's tags alone could name any version."""
    for entry in ledger.read(home.ledger):
        promoted = entry.get("version") == version and entry.get("decision") == "promote"
        if entry.get("model") == name and (promoted or entry.get("champion") == version):
            return ()
    reason = (
        f"The ledger does not know version {version} of {name!r} as a champion, only the registry does. To bring it back all "
        "the same, set the alias `champion` in MLflow."
    )
    return (RuleResult("was_champion", None, version, "missing", reason),)


def judge(config: Config, home: Home, client: "MlflowClient", record: "ModelVersion", current_champion: str | None) -> Case:
    """What people decided before, what the gate says of the evidence, and whether the artifact is what it is about.

    Raises:
        ServiceError: MLflow does not answer.
    """
    exhibit = find_evidence(client, home, record)
    decision = barred(client, record) or _decide(config, home, record, exhibit, current_champion)
    return Case(str(record.version), decision, exhibit.sha256, current_champion)


def barred(client: "MlflowClient", record: "ModelVersion") -> Decision | None:
    """People's decisions outlast the gate's: what was rejected or rolled back does not return by itself."""
    what = stages.turned_down_by(client, record)
    if what is None:
        return None
    tag = "approval" if what == "rejected" else "rolled_back"
    reason = f"Version {record.version} was {what}. Train anew, or delete its tag {tag!r} in MLflow to let it in again."
    return Decision("refuse", (RuleResult(f"not_{tag}", what, None, "fail", reason),), (reason,))


def _decide(config: Config, home: Home, record: "ModelVersion", exhibit: Exhibit, current_champion: str | None) -> Decision:
    decision = decide(exhibit.evidence, config.gate, current_champion)
    if exhibit.problem is not None:  # and then there is nothing that the artifact could be held against
        rule = RuleResult("evidence", None, None, "missing", exhibit.problem)
        return Decision("refuse", (rule, *decision.rules), (exhibit.problem, *decision.reasons))
    decision = _naming_rules(decision, changed_rules(config, home, str(record.version)))
    artifact = artifact_rule(home, record, exhibit.evidence.manifest_sha256, "the evidence")
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


def crown(config: Config, home: Home, case: Case, *, waiting: bool = False) -> PromotionResult:
    """Move the alias, provided that the champion is still the one that the decision rests on and nobody decided otherwise.

    `waiting`: the version is to be the challenger still.
    """
    name, decision = config.registered_model, case.decision
    try:
        stages.make_champion(home, name, case.version, case.champion, waiting=waiting)
    except Refused as error:  # somebody else's promotion came first
        lost = Case(case.version, Decision("refuse", decision.rules, (str(error),)), case.evidence_sha256, case.champion)
        record_decision(config, home, connect(home), lost)
        return refused(home, name, lost)
    return PromotionResult(case.version, "promoted", decision.reasons, decision.rules, case.champion, champion(home, name))


def refused(home: Home, name: str, case: Case, to: Literal["Candidate", "Archived"] = stages.ARCHIVED) -> PromotionResult:
    """End a refusal: a version that waited waits no more."""
    if aliases(connect(home), name).get(CHALLENGER) == case.version:
        stages.stand_down(home, name, case.version, to)
    return PromotionResult(
        case.version, "refused", case.decision.reasons, case.decision.rules, case.champion, champion(home, name)
    )


def record_decision(
    config: Config,
    home: Home,
    client: "MlflowClient",
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
    record_entry(config, home, client, case.version, entry)
    verdict = "passed" if decision.decision == "promote" else "refused"
    tags = {"gate": verdict, "gate_reasons": " ".join(decision.reasons)[:5000]}
    set_tags(client, config.registered_model, case.version, tags)
    if tell:
        _publish(config, home, case, action, signed or {})


def _publish(config: Config, home: Home, case: Case, action: str, signed: dict[str, str]) -> None:
    """The one place where report and card are rendered anew with a decision that was recorded; no alias has moved yet.

    Runs again when a killed command is run again, so it must replace what it wrote before.
    """
    passed, waits = case.decision.decision == "promote", action == GATE and config.gate.approval == "required"
    outcome = "rejected" if action == REJECT else "refused" if not passed else "pending_approval" if waits else "promoted"
    if passed and signed:
        outcome = "approved"
    _tell(config, home, case.version, outcome, case.decision, signed)


def _tell(config: Config, home: Home, version: str, outcome: str, decision: Decision, signed: dict[str, str]) -> None:
    from finsent.pipeline.publishing import publish_decision
    from finsent.reporting.summaries import final_decision

    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    verdict = final_decision(version, outcome, decision.reasons, map(astuple, decision.rules), when=now, **signed)
    publish_decision(home, get_version(connect(home), config.registered_model, version), verdict)


def already_champion(home: Home, name: str, version: str) -> PromotionResult:
    """Finish a promotion that was cut short."""
    stages.make_champion(home, name, version, version)
    return PromotionResult(version, "promoted", (f"Version {version} is the champion already.",), (), version, version)


def require_signature(who: str, why: str) -> None:
    """Decisions of people have a name and a reason.

    Raises:
        InputError: one of them is empty.
    """
    if not who.strip() or not why.strip():
        raise InputError(f"a decision needs a name and a reason, and got who={who!r}, why={why!r}.")
