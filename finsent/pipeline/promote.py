"""From evidence to a champion: the gate decides, the ledger records, and only then does an alias move.

Order matters: a decision is in the ledger and on the version's tags before it takes effect, so a process killed in
between has decided without acting; the same command again decides again and finishes.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from finsent.config import Config
from finsent.errors import InputError, Refused
from finsent.home import Home
from finsent.pipeline.exhibit import Exhibit, find_evidence
from finsent.registry import ledger, stages
from finsent.registry.gate import Decision, RuleResult, decide
from finsent.registry.tracking import connect
from finsent.registry.versions import CHALLENGER, aliases, champion, get_version, latest_version, set_tags
from finsent.registry.witness import LEDGER_ENTRY, require_agreement

if TYPE_CHECKING:
    from mlflow import MlflowClient
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


def promote(config: Config, home: Home, *, version: str | None = None) -> PromotionResult:
    """Let the gate decide on the version's evidence, the newest version's by default.

    A version that passes becomes champion, or challenger where `gate.approval` is `required`.

    Raises:
        InputError: there is no such version, or none at all.
    """
    name = config.registered_model
    version = version or latest_version(home, name)
    client = connect(home)
    record = get_version(client, name, version)
    before = champion(home, name)
    if before == version:
        return _already(home, name, version)
    exhibit = find_evidence(client, record)
    decision = _barred(record) or _decide(config, exhibit, before)
    _record(config, home, client, version, decision, exhibit, before)
    if decision.decision == "refuse":
        return _refuse(home, name, version, decision, before)
    if config.gate.approval == "required":
        stages.make_challenger(home, name, version)
        set_tags(client, name, version, {"approval": "pending"})
        return PromotionResult(version, "pending_approval", decision.reasons, decision.rules, before, before)
    return _crown(config, home, version, decision, exhibit, before)


def consider(config: Config, home: Home, version: str) -> Decision:
    """What the gate would say of the version now. Nothing is recorded and nothing moves: that is `promote`'s.

    Raises:
        InputError: there is no such version.
    """
    client, name = connect(home), config.registered_model
    record = get_version(client, name, version)
    return _barred(record) or _decide(config, find_evidence(client, record), champion(home, name))


def approve(config: Config, home: Home, version: str | None, who: str, why: str) -> PromotionResult:
    """Make a waiting challenger champion. The gate decides once more: if the champion changed meanwhile, the evidence is void.

    `version` None means the challenger.

    Raises:
        InputError: no name or reason given, or no such version.
        Refused: the version does not wait for approval.
    """
    _signed(who, why)
    name = config.registered_model
    before = champion(home, name)
    if version is not None and before == version:
        return _already(home, name, version)
    client, version = _waiting(home, name, version)
    record = get_version(client, name, version)
    exhibit = find_evidence(client, record)
    decision = _decide(config, exhibit, before)
    by = {"who": who, "why": why}
    if decision.decision == "refuse":
        set_tags(client, name, version, {"approval": "void"})
        _record(config, home, client, version, decision, exhibit, before, action="approval void", **by)
        return _refuse(home, name, version, decision, before)
    _record(config, home, client, version, decision, exhibit, before, action="approve", **by)
    set_tags(client, name, version, {"approval": "approved", "approved_by": who, "approved_why": why})
    return _crown(config, home, version, decision, exhibit, before)


def reject(config: Config, home: Home, version: str | None, who: str, why: str) -> PromotionResult:
    """Turn a waiting challenger down. It is not promoted later unless its tag `approval` is deleted in MLflow.

    Raises:
        InputError: no name or reason given, or no such version.
        Refused: the version does not wait for approval.
    """
    _signed(who, why)
    name = config.registered_model
    client, version = _waiting(home, name, version)
    before = champion(home, name)
    reason = f"Rejected by {who}: {why}"
    _append(
        config, home, client, version, {"action": "reject", "decision": "refuse", "reasons": [reason], "who": who, "why": why}
    )
    set_tags(client, name, version, {"approval": "rejected", "rejected_by": who, "rejected_why": why})
    stages.reject_version(home, name, version)
    return PromotionResult(version, "refused", (reason,), (), before, before)


def rollback(config: Config, home: Home, who: str, why: str) -> PromotionResult:
    """Give the alias back to the version that the champion replaced, at once and without the gate.

    The version rolled back from is not promoted again unless its tag `rolled_back` is deleted in MLflow.

    Raises:
        InputError: no name or reason given.
        NoChampionError: nothing to roll back.
        Refused: the champion replaced no version.
    """
    _signed(who, why)
    name = config.registered_model
    current, target = stages.rollback_plan(home, name)
    reason = f"Rolled back from version {current} to {target} by {who}: {why}"
    entry = {"action": "rollback", "from": current, "to": target, "reasons": [reason], "who": who, "why": why}
    _append(config, home, connect(home), target, entry)
    stages.rollback(home, name)
    return PromotionResult(target, "promoted", (reason,), (), current, champion(home, name))


def _barred(record: "ModelVersion") -> Decision | None:
    """People's decisions outlast the gate's: what was rejected or rolled back does not return by itself."""
    for tag, values, what in (("rolled_back", {"true"}, "rolled back"), ("approval", {"rejected"}, "rejected")):
        if record.tags.get(tag) in values:
            reason = f"Version {record.version} was {what}. Train anew, or delete its tag {tag!r} in MLflow to let it in again."
            return Decision("refuse", (RuleResult(f"not_{tag}", record.tags[tag], None, "fail", reason),), (reason,))
    return None


def _decide(config: Config, exhibit: Exhibit, current_champion: str | None) -> Decision:
    decision = decide(exhibit.evidence, config.gate, current_champion)
    if exhibit.problem is None:
        return decision
    rule = RuleResult("evidence", None, None, "missing", exhibit.problem)
    return Decision("refuse", (rule, *decision.rules), (exhibit.problem, *decision.reasons))


def _crown(config: Config, home: Home, version: str, decision: Decision, exhibit: Exhibit, before: str | None) -> PromotionResult:
    name = config.registered_model
    try:
        stages.make_champion(home, name, version, before)
    except Refused as error:  # somebody else's promotion came first
        lost = Decision("refuse", decision.rules, (str(error),))
        _record(config, home, connect(home), version, lost, exhibit, before)
        return _refuse(home, name, version, lost, before)
    return PromotionResult(version, "promoted", decision.reasons, decision.rules, before, champion(home, name))


def _refuse(home: Home, name: str, version: str, decision: Decision, before: str | None) -> PromotionResult:
    if aliases(connect(home), name).get(CHALLENGER) == version:
        stages.reject_version(home, name, version)
    return PromotionResult(version, "refused", decision.reasons, decision.rules, before, champion(home, name))


def _record(
    config: Config,
    home: Home,
    client: "MlflowClient",
    version: str,
    decision: Decision,
    exhibit: Exhibit,
    before: str | None,
    **more: str,
) -> None:
    entry = {
        "action": "gate",
        "decision": decision.decision,
        "reasons": list(decision.reasons),
        "rules": [asdict(rule) for rule in decision.rules],
        "gate": config.gate.model_dump(mode="json"),
        "champion": before,
        "evidence_sha256": exhibit.sha256,
        **more,
    }
    _append(config, home, client, version, entry)
    verdict = "passed" if decision.decision == "promote" else "refused"
    set_tags(client, config.registered_model, version, {"gate": verdict, "gate_reasons": " ".join(decision.reasons)[:5000]})


def _append(config: Config, home: Home, client: "MlflowClient", version: str, entry: dict[str, Any]) -> None:
    """The ledger's head goes to the registry too: a ledger whose end was cut off no longer agrees with it, and gets no entry."""
    require_agreement(client, config.registered_model, home.ledger)
    head = ledger.append(home.ledger, {"model": config.registered_model, "version": version, **entry})
    set_tags(client, config.registered_model, version, {LEDGER_ENTRY: f"{head['seq']} {head['hash']}"})


def _already(home: Home, name: str, version: str) -> PromotionResult:
    stages.make_champion(home, name, version, version)  # finishes a promotion that was cut short
    return PromotionResult(version, "promoted", (f"Version {version} is the champion already.",), (), version, version)


def _waiting(home: Home, name: str, version: str | None) -> tuple["MlflowClient", str]:
    client = connect(home)
    challenger = aliases(client, name).get(CHALLENGER)
    version = version or challenger
    if version is None:
        raise Refused(f"no version of {name!r} waits for approval. `finsent promote` puts one there.")
    record = get_version(client, name, version)
    # `approved` and still the challenger: an approval was cut short and may be given again
    if version != challenger or record.tags.get("approval") not in {"pending", "approved"}:
        waits = f"version {challenger} does" if challenger else "none does; `finsent promote` puts one there"
        raise Refused(f"version {version!r} of {name!r} does not wait for approval: {waits}.")
    return client, version


def _signed(who: str, why: str) -> None:
    if not who.strip() or not why.strip():
        raise InputError(f"a decision needs a name and a reason, and got who={who!r}, why={why!r}.")
