"""The alias against the audit log: who acts with a champion that no decision made one, and how it is put right."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finsent.errors import CheckFailed, NoChampionError
from finsent.registry import aliases, audit_log, promotion
from finsent.registry.approvals import expires_at
from finsent.registry.audit_mirror import update_mirror, verify_audit_log
from finsent.registry.champion import champion_state, current_champion, require_champion
from finsent.registry.client import Registry
from finsent.registry.gate import RuleResult
from finsent.registry.promotion import check_rollback_target
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.workspace import Workspace
from tests.champions import crown
from tests.steps.promotion import AUTOMATIC, SIGNED, evaluate_new, register


def by_hand(registry: Registry, version: str) -> None:
    registry.client.set_registered_model_alias(registry.name, "champion", version)


def test_before_the_first_promotion_there_is_none_and_nothing_is_wrong(
    registry: Registry, bare_version: Callable[[], str]
) -> None:
    assert current_champion(registry) is None
    bare_version()
    assert current_champion(registry) is None
    with pytest.raises(NoChampionError, match="no champion yet"):
        require_champion(registry)


def test_an_alias_that_no_decision_set_is_refused_until_it_is_adopted(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str]
) -> None:
    by_hand(registry, bare_version())
    with pytest.raises(CheckFailed, match=r"'champion' of 'finsent' is on version 1, and neither .* set by hand.*`finsent adopt"):
        require_champion(registry)
    assert verify_audit_log(registry).entries == 0, "the log itself is whole"


def test_an_alias_moved_by_hand_is_refused_put_back_or_adopted(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str], make_adapter: Callable[[int], Path]
) -> None:
    context = make_context(AUTOMATIC, mlflow_home)
    assert (bare_version(), register(mlflow_home, make_adapter(0)), bare_version()) == ("1", "2", "3")
    crown(registry, "1")
    crown(registry, "2", "1")
    assert require_champion(registry) == "2"
    for other in ("1", "3"):  # champion once, which is no decision for now; and never judged
        by_hand(registry, other)
        with pytest.raises(CheckFailed, match=rf"is on version {other}, and by .* entry 1 .* version 2 is the champion"):
            require_champion(registry)
    for refused in (lambda: promote.promote(context, version="3"), lambda: promote.rollback(context, *SIGNED)):
        with pytest.raises(CheckFailed, match="moved by hand"):
            refused()
    aliases.set_candidate(registry, "3", ("weak",))  # tidies up, and does not follow an alias set by hand
    assert registry.get_version("2").tags["stage"] == "Production"
    back = promote.promote(context, version="2")
    assert (back.decision, back.champion_before, back.champion_after) == ("promoted", "3", "2")
    assert registry.aliases() == {"champion": "2", "previous": "1"}
    assert current_champion(registry) == "2"
    with pytest.raises(CheckFailed, match="nothing to adopt"):
        promote.adopt(context, *SIGNED)
    register(mlflow_home, make_adapter(0))
    by_hand(registry, "4")
    adopted = promote.adopt(context, *SIGNED)
    assert (adopted.champion_before, adopted.champion_after) == ("2", "4")
    assert registry.aliases() == {"champion": "4", "previous": "2"}
    last = audit_log.read(mlflow_home.audit_log)[-1]
    assert (last["action"], last["from"], last["to"], last["who"], last["why"]) == ("adopt", "2", "4", *SIGNED)
    assert promote.rollback(context, *SIGNED).champion_after == "2"
    by_hand(registry, "4")
    with pytest.raises(CheckFailed, match="not adopted as champion: Version 4 was rolled back"):
        promote.adopt(context, *SIGNED)


def test_a_deleted_alias_stops_promotions_until_it_is_back(
    registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]
) -> None:
    context = make_context(AUTOMATIC, mlflow_home)
    evaluate_new(mlflow_home, make_adapter(0))
    assert promote.promote(context).decision == "promoted"
    evaluate_new(mlflow_home, make_adapter(1))  # met no champion: with the alias gone, the gate would compare it with none
    registry.client.delete_registered_model_alias("finsent", "champion")
    entries = len(audit_log.read(mlflow_home.audit_log))
    for act in (
        lambda: promote.promote(context, version="2"),
        lambda: require_champion(registry),
        lambda: promote.adopt(context, *SIGNED),
    ):
        with pytest.raises(CheckFailed, match=r"gone from version 1, champion by .*entry 1 .*`finsent promote --version 1`"):
            act()
    assert len(audit_log.read(mlflow_home.audit_log)) == entries
    assert promote.promote(context, version="1").champion_after == "1"
    assert require_champion(registry) == "1"
    assert promote.promote(context, version="2").decision == "refused"


def test_a_deleted_champion_is_followed_by_a_rollback_or_by_a_recorded_none(
    registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]
) -> None:
    context = make_context(AUTOMATIC, mlflow_home)
    for version in ("1", "2"):
        register(mlflow_home, make_adapter(0))
        crown(registry, version, registry.champion())
    registry.client.delete_model_version("finsent", "2")
    with pytest.raises(CheckFailed, match=r"version 2 of 'finsent', champion by .*, was deleted in MLflow.*rollback.*adopt"):
        promote.promote(context, version="1")
    back = promote.rollback(context, *SIGNED)
    assert (back.champion_before, back.champion_after) == ("2", "1")
    assert require_champion(registry) == "1"
    registry.client.delete_model_version("finsent", "1")
    with pytest.raises(CheckFailed, match="replaced no version that is still there"):
        promote.rollback(context, *SIGNED)
    assert promote.adopt(context, *SIGNED).champion_after is None
    assert current_champion(registry) is None
    verify_audit_log(registry)
    evaluate_new(mlflow_home, make_adapter(1))
    assert promote.promote(context, version="3").champion_after == "3", "compared with none, as was decided"


def test_a_store_begun_anew_is_not_told_as_a_deleted_version(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str]
) -> None:
    store = mlflow_home.root / "mlflow.db"
    new = store.read_bytes()
    crown(registry, bare_version())
    store.write_bytes(new)
    with pytest.raises(CheckFailed, match=r"champion by .*, and MLflow at 'sqlite:.* is empty or new. Restore it from a backup"):
        require_champion(Registry(mlflow_home, "finsent"))


def test_a_renamed_model_is_named(registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]) -> None:
    register(mlflow_home, make_adapter(0))
    crown(registry, "1")
    registry.client.rename_registered_model("finsent", "desk")
    with pytest.raises(CheckFailed, match=r"is version 1 of 'desk' now: .*Rename it back to 'finsent'"):
        require_champion(registry)
    with pytest.raises(CheckFailed, match=r"entry 0 decided on as a version of 'finsent': .*rename it back"):
        require_champion(Registry(mlflow_home, "desk"))


def test_a_model_made_anew_does_not_inherit_a_champion_by_its_number(
    registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]
) -> None:
    register(mlflow_home, make_adapter(0))
    crown(registry, "1")
    registry.client.delete_registered_model("finsent")
    register(mlflow_home, make_adapter(1))
    by_hand(registry, "1")
    with pytest.raises(CheckFailed, match=r"version 1 of 'finsent' is another one than .* entry 0 made champion"):
        require_champion(registry)
    registry.client.delete_registered_model_alias("finsent", "champion")
    with pytest.raises(CheckFailed, match="was deleted in MLflow"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version="1")


@pytest.mark.parametrize("ended", ["reject", "approval_void"])
def test_an_approval_that_was_cut_short_and_then_ended_otherwise_makes_no_champion(
    registry: Registry, bare_version: Callable[[], str], ended: str
) -> None:
    crown(registry, bare_version())
    second, path = bare_version(), registry.workspace.audit_log
    decided = {"model": "finsent", "version": second, "champion": "1", "reasons": [], "who": "a", "why": "b"}
    audit_log.append(path, {**decided, "action": "approve", "decision": "promote"})  # killed before the alias moved
    audit_log.append(path, {**decided, "action": ended, "decision": "refuse"})
    assert (current_champion(registry), champion_state(registry).recorded) == ("1", "1")
    by_hand(registry, second)
    with pytest.raises(CheckFailed, match="moved by hand"):
        current_champion(registry)


def test_a_rejected_version_is_not_put_back(registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str]) -> None:
    crown(registry, bare_version())
    registry.set_tags("1", {"approval": "rejected"})
    registry.client.delete_registered_model_alias("finsent", "champion")
    with pytest.raises(CheckFailed, match="not brought back to version 1: Version 1 was rejected"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version="1")


def test_a_stage_edited_in_mlflow_lets_no_other_alias_through(registry: Registry, bare_version: Callable[[], str]) -> None:
    for version in (bare_version(), bare_version(), bare_version()):
        crown(registry, version, registry.champion())
    registry.set_tags("3", {"stage": "Archived"})
    by_hand(registry, "1")
    with pytest.raises(CheckFailed, match="moved by hand"):
        current_champion(registry)
    registry.client.delete_registered_model_alias("finsent", "champion")
    with pytest.raises(CheckFailed, match="gone from version 3"):
        current_champion(registry)
    evaluated = {"model": "finsent", "version": "3", "action": "evaluate", "champion": "3"}
    audit_log.append(registry.workspace.audit_log, evaluated)  # the log itself knows that the alias has moved
    by_hand(registry, "2")
    with pytest.raises(CheckFailed, match="version 3 is the champion: it was moved by hand"):
        current_champion(registry)


def test_a_model_made_anew_that_is_adopted_replaces_no_version_of_its_own_number(
    registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]
) -> None:
    context = make_context(AUTOMATIC, mlflow_home)
    register(mlflow_home, make_adapter(0))
    crown(registry, "1")
    registry.client.delete_registered_model("finsent")
    register(mlflow_home, make_adapter(1))
    by_hand(registry, "1")
    assert promote.adopt(context, *SIGNED).champion_after == "1"
    assert registry.aliases() == {"champion": "1"}
    with pytest.raises(CheckFailed, match="nothing to roll back to"):
        promote.rollback(context, *SIGNED)


def test_a_version_made_anew_was_not_champion_by_its_number(
    registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]
) -> None:
    register(mlflow_home, make_adapter(0))
    crown(registry, "1")
    log = mlflow_home.audit_log.read_bytes()
    asked = {"action": "gate", "decision": "promote", "gate": {"approval": "required"}}
    manifest = registry.get_version("1").tags["manifest_sha256"]
    audit_log.append(mlflow_home.audit_log, {"model": "finsent", "version": "1", "manifest_sha256": manifest, **asked})
    assert expires_at(registry, AUTOMATIC.gate, "1") is not None
    assert "was_champion" not in {rule.name for rule in check_rollback_target(registry, registry.get_version("1"))}
    registry.client.delete_registered_model("finsent")
    register(mlflow_home, make_adapter(1))
    assert expires_at(registry, AUTOMATIC.gate, "1") is None
    rules = {rule.name: rule.status for rule in check_rollback_target(registry, registry.get_version("1"))}
    assert rules["was_champion"] == "missing"
    assert mlflow_home.audit_log.read_bytes().startswith(log)


def test_a_promotion_under_way_leaves_the_old_champion_right(registry: Registry, bare_version: Callable[[], str]) -> None:
    first, second, third = bare_version(), bare_version(), bare_version()
    decided = {"action": "approve", "decision": "promote", "reasons": [], "who": "a", "why": "b"}
    path = registry.workspace.audit_log
    audit_log.append(path, {"model": "finsent", "version": first, "champion": None, **decided})
    assert current_champion(registry) is None
    aliases.set_champion(registry, first, None)
    for version in (second, third):  # two at once: only one can win
        audit_log.append(path, {"model": "finsent", "version": version, "champion": first, **decided})
    assert current_champion(registry) == first
    aliases.set_champion(registry, second, first)
    assert current_champion(registry) == second
    lost = {"action": "gate", "decision": "refuse", "reasons": ["somebody was first"]}
    audit_log.append(path, {"model": "finsent", "version": third, "champion": second, **lost})
    assert (current_champion(registry), champion_state(registry).recorded) == (second, second)


@pytest.mark.parametrize("action", ["reject", "gate"])
def test_a_refusal_after_an_approval_keeps_the_alias_where_it_is(
    registry: Registry, bare_version: Callable[[], str], action: str
) -> None:
    """An approval's page takes seconds between its entry and the alias, in which others decide."""
    first, second = bare_version(), bare_version()
    crown(registry, first)
    decided = {"model": "finsent", "version": second, "champion": first, "reasons": [], "who": "a", "why": "b"}
    for taken, decision in (("approve", "promote"), (action, "refuse")):
        audit_log.append(registry.workspace.audit_log, {**decided, "action": taken, "decision": decision})
    with pytest.raises(CheckFailed, match=r"the champion of 'finsent' is '1' and not '2': somebody else decided"):
        aliases.set_champion(registry, second, first)
    assert current_champion(registry) == first


def test_a_persons_decision_is_recorded_only_on_what_it_rests_on(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(AUTOMATIC, mlflow_home)
    for version in (bare_version(), bare_version(), bare_version(), bare_version()):
        if version < "3":
            crown(registry, version, registry.champion())

    def crowned_meanwhile(*_: object) -> tuple[()]:
        crown(registry, "3", "2")
        return ()

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "check_rollback_target", crowned_meanwhile)
        with pytest.raises(aliases.DecidedMeanwhile, match=r"\('2', '1'\) before, \('3', '2'\) now"):
            promote.rollback(context, *SIGNED)
    assert audit_log.read(mlflow_home.audit_log)[-1]["action"] == "approve"
    by_hand(registry, "4")

    def put_back(*_: object) -> RuleResult:
        by_hand(registry, "3")
        return RuleResult("artifact", None, None, "pass", "")

    monkeypatch.setattr(promotion, "check_artifact_integrity", put_back)
    with pytest.raises(aliases.DecidedMeanwhile, match=r"\('4', '3'\) before, \('3', '3'\) now"):
        promote.adopt(context, *SIGNED)
    assert audit_log.read(mlflow_home.audit_log)[-1]["action"] == "approve"


def test_a_second_workspace_of_one_registry_asks_the_mirror(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str], tmp_path: Path
) -> None:
    for version in (bare_version(), bare_version()):
        crown(registry, version, registry.champion())
    other = Registry(replace(mlflow_home, root=tmp_path / "other"), "finsent")
    assert require_champion(other) == "2"
    by_hand(registry, "1")
    with pytest.raises(CheckFailed, match="moved by hand"):
        require_champion(other)
    registry.client.delete_registered_model_alias("finsent", "champion")
    with pytest.raises(CheckFailed, match="gone from version 2"):
        current_champion(other)


def test_a_version_that_only_waited_was_never_champion(registry: Registry, bare_version: Callable[[], str]) -> None:
    waited = bare_version()
    crown(registry, bare_version())
    entry = {"action": "gate", "decision": "promote", "champion": "2", "gate": {"approval": "required"}, "reasons": []}
    audit_log.append(registry.workspace.audit_log, {"model": "finsent", "version": waited, **entry})
    # an evaluation beside an alias that was set by hand proves nothing either
    audit_log.append(registry.workspace.audit_log, {"model": "finsent", "version": "2", "action": "evaluate", "champion": waited})
    update_mirror(registry)
    rules = {rule.name: rule.status for rule in check_rollback_target(registry, registry.get_version(waited))}
    assert rules["was_champion"] == "missing"


def test_an_older_audit_log_that_was_put_back_moves_no_alias(
    registry: Registry, mlflow_home: Workspace, make_adapter: Callable[[int], Path]
) -> None:
    context, log = make_context(AUTOMATIC, mlflow_home), mlflow_home.audit_log
    register(mlflow_home, make_adapter(0))
    crown(registry, "1")
    older = log.read_bytes()
    register(mlflow_home, make_adapter(0))
    crown(registry, "2", "1")
    newer = log.read_bytes()
    log.write_bytes(older)
    acts = (
        lambda: require_champion(registry),
        lambda: promote.promote(context, version="1"),
        lambda: promote.adopt(context, *SIGNED),
        lambda: promote.rollback(context, *SIGNED),
        lambda: aliases.restore_champion(registry, "1"),
    )
    for alias in ("2", "1"):  # also where it agrees with the older log
        by_hand(registry, alias)
        for act in acts:
            with pytest.raises(CheckFailed, match=r"line 2: it ends after 1 .*older copy.*Restore the audit log from a copy"):
                act()
        assert (registry.champion(), log.read_bytes()) == (alias, older)
    log.write_bytes(newer)
    assert promote.promote(context, version="2").champion_after == "2"


@pytest.mark.parametrize("how", ["emptied", "deleted", "a folder"])
def test_an_audit_log_that_is_gone_is_not_replaced_by_the_mirror(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str], how: str
) -> None:
    crown(registry, bare_version())
    log = mlflow_home.audit_log
    log.unlink()
    if how == "emptied":
        log.touch()
    elif how == "a folder":
        log.mkdir()
    with pytest.raises(CheckFailed, match=r"no file.*restore" if how == "a folder" else r"it is empty or gone. MLflow knows"):
        require_champion(registry)


def test_another_models_entries_alone_are_no_reason_to_ask_the_mirror(
    registry: Registry, mlflow_home: Workspace, bare_version: Callable[[], str], tmp_path: Path
) -> None:
    log = mlflow_home.audit_log
    audit_log.append(log, {"model": "another", "action": "evaluate", "version": "1"})
    start = log.read_bytes()
    crown(registry, bare_version())
    log.write_bytes(start)
    with pytest.raises(CheckFailed, match="line 2: it ends after 1 entries"):
        require_champion(registry)
    other = Registry(replace(mlflow_home, root=tmp_path / "other"), "finsent")
    audit_log.append(other.workspace.audit_log, {"model": "another", "action": "evaluate", "version": "7"})
    assert require_champion(other) == "1", "another workspace's log of another model"


def test_a_long_audit_log_is_verified_once(registry: Registry, bare_version: Callable[[], str]) -> None:
    crown(registry, bare_version())
    path = registry.workspace.audit_log
    for _ in range(3):
        assert require_champion(registry) == "1"
    before = audit_log._follow_chain.cache_info().misses
    assert require_champion(registry) == "1"
    assert audit_log._follow_chain.cache_info().misses == before
    audit_log.append(path, {"model": "finsent", "version": "1", "action": "evaluate"})
    assert require_champion(registry) == "1"
    assert audit_log._follow_chain.cache_info().misses == before + 1
