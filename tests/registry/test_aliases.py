"""Aliases and stages: one champion at every moment, whoever promotes and wherever a process dies."""

import itertools
import threading
from datetime import UTC, datetime

import pytest
from mlflow import MlflowClient

from finsent.errors import CheckFailed, InputError, NoChampionError
from finsent.registry import aliases, tracking
from finsent.registry.client import Registry


def state(home):
    """Aliases and the stage of each version."""
    client = tracking.connect(home)
    stage = {str(v.version): v.tags["stage"] for v in client.search_model_versions("name='finsent'")}
    return Registry(home, "finsent").aliases(), stage


def test_the_way_of_a_version(mlflow_home, bare_version, registry):
    assert [bare_version(), bare_version(), bare_version()] == ["1", "2", "3"]
    aliases.set_challenger(registry, "1")
    assert state(mlflow_home) == ({"challenger": "1"}, {"1": "Staging", "2": "None", "3": "None"})
    aliases.set_champion(registry, "1", None)
    assert state(mlflow_home) == ({"champion": "1"}, {"1": "Production", "2": "None", "3": "None"})
    aliases.set_champion(registry, "2", "1")
    assert state(mlflow_home) == ({"champion": "2", "previous": "1"}, {"1": "Archived", "2": "Production", "3": "None"})
    aliases.set_challenger(registry, "3")
    assert state(mlflow_home)[1] == {"1": "Archived", "2": "Production", "3": "Staging"}
    aliases.archive_challenger(registry, "3")
    assert state(mlflow_home) == ({"champion": "2", "previous": "1"}, {"1": "Archived", "2": "Production", "3": "Archived"})


def test_a_challenger_displaced_by_another_waits_no_more(mlflow_home, bare_version, registry):
    client = tracking.connect(mlflow_home)
    for version in (bare_version(), bare_version()):
        client.set_model_version_tag("finsent", version, "approval", "pending")
        aliases.set_challenger(registry, version)
    assert state(mlflow_home) == ({"challenger": "2"}, {"1": "Archived", "2": "Staging"})
    assert [client.get_model_version("finsent", version).tags["approval"] for version in "12"] == ["void", "pending"]


def test_a_version_rejected_meanwhile_does_not_wait_for_approval(mlflow_home, bare_version, registry):
    bare_version()
    registry.set_tags("1", {"approval": "rejected"})
    with pytest.raises(CheckFailed, match="was rejected meanwhile"):
        aliases.set_challenger(registry, "1", datetime.now(UTC))
    assert state(mlflow_home)[0] == {}
    assert registry.get_version("1").tags["approval"] == "rejected"


def test_rollback_walks_back_and_stops_at_the_first(mlflow_home, bare_version, registry):
    for version, before in (("1", None), ("2", "1"), ("3", "2")):
        bare_version()
        aliases.set_champion(registry, version, before)
    assert aliases.rollback(registry) == ("3", "2")
    assert state(mlflow_home) == ({"champion": "2", "previous": "1"}, {"1": "Archived", "2": "Production", "3": "Archived"})
    assert aliases.rollback(registry) == ("2", "1")
    assert state(mlflow_home) == ({"champion": "1"}, {"1": "Production", "2": "Archived", "3": "Archived"})
    with pytest.raises(CheckFailed, match="nothing to roll back to"):
        aliases.rollback(registry)
    assert tracking.connect(mlflow_home).get_model_version("finsent", "3").tags["rolled_back"] == "true"


def stage(home, version):
    client = tracking.connect(home)
    tags = client.get_model_version("finsent", version).tags
    return aliases.stage_of(version, Registry(home, "finsent").aliases(), tags), tags


def test_a_candidate_is_what_beats_the_floors_and_whatever_does_not_says_why(mlflow_home, bare_version, registry):
    bare_version()
    assert stage(mlflow_home, "1")[0] == "none"
    assert aliases.set_candidate(registry, "1", ["No better than TF-IDF.", "Nor than the majority."]) == "none"
    found, tags = stage(mlflow_home, "1")
    assert (found, tags["stage"], tags["not_candidate"]) == ("none", "None", "No better than TF-IDF. Nor than the majority.")
    assert aliases.set_candidate(registry, "1", []) == "candidate"
    found, tags = stage(mlflow_home, "1")
    assert (found, tags["stage"]) == ("candidate", "Candidate")
    assert "not_candidate" not in tags
    aliases.set_candidate(registry, "1", ["Worse on new rows."])
    assert stage(mlflow_home, "1")[1]["stage"] == "None"
    with pytest.raises(InputError, match="no version '9'"):
        aliases.set_candidate(registry, "9", [])


def test_an_evaluation_takes_nobodys_stage_away(mlflow_home, bare_version, registry):
    for _ in range(4):
        bare_version()
    aliases.set_champion(registry, "1", None)
    aliases.set_champion(registry, "2", "1")
    aliases.set_champion(registry, "3", "2")
    aliases.set_challenger(registry, "4")
    before = state(mlflow_home)
    whose = {"1": "archived", "2": "previous", "3": "champion", "4": "challenger"}
    for version, expected in whose.items():
        assert aliases.set_candidate(registry, version, ["Worse."]) == expected
        assert stage(mlflow_home, version)[0] == expected
    assert state(mlflow_home) == before
    for version in ("2", "3", "4"):
        assert aliases.set_candidate(registry, version, []) == whose[version]
    assert state(mlflow_home) == before
    assert aliases.set_candidate(registry, "1", []) == "candidate"
    assert stage(mlflow_home, "1")[0] == "candidate"


@pytest.mark.parametrize(("tag", "value"), [("rolled_back", "true"), ("approval", "rejected")])
def test_what_people_turned_down_is_no_candidate_again_by_itself(mlflow_home, bare_version, tag, value, registry):
    bare_version()
    aliases.archive_challenger(registry, "1")
    tracking.connect(mlflow_home).set_model_version_tag("finsent", "1", tag, value)
    assert aliases.set_candidate(registry, "1", []) == "archived"
    assert stage(mlflow_home, "1")[0] == "archived"


def test_a_challenger_can_go_back_to_being_a_candidate(mlflow_home, bare_version, registry):
    bare_version()
    aliases.set_challenger(registry, "1")
    aliases.archive_challenger(registry, "1", aliases.CANDIDATE)
    assert state(mlflow_home) == ({}, {"1": "Candidate"})
    aliases.reconcile_aliases(registry)
    assert state(mlflow_home) == ({}, {"1": "Candidate"})


def test_what_is_not_there_is_said(bare_version, registry):
    with pytest.raises(InputError, match="has none yet"):
        aliases.set_champion(registry, "1", None)
    bare_version()
    with pytest.raises(NoChampionError):
        aliases.rollback(registry)
    with pytest.raises(InputError, match="no version '9'"):
        aliases.set_challenger(registry, "9")
    aliases.set_champion(registry, "1", None)
    with pytest.raises(CheckFailed, match="cannot be its own challenger"):
        aliases.set_challenger(registry, "1")
    with pytest.raises(CheckFailed, match="finsent rollback"):
        aliases.archive_challenger(registry, "1")


def test_deleted_predecessor_is_no_way_back(mlflow_home, bare_version, registry):
    for version, before in (("1", None), ("2", "1")):
        bare_version()
        aliases.set_champion(registry, version, before)
    tracking.connect(mlflow_home).delete_model_version("finsent", "1")
    with pytest.raises(CheckFailed, match="still there"):
        aliases.rollback(registry)
    assert registry.champion() == "2"


def test_stale_expectation_is_refused(mlflow_home, bare_version, registry):
    for _ in range(3):
        bare_version()
    aliases.set_champion(registry, "1", None)
    before = state(mlflow_home)
    for expected in (None, "2"):
        with pytest.raises(CheckFailed, match="Evaluate the version again"):
            aliases.set_champion(registry, "3", expected)
    assert state(mlflow_home) == before


def test_of_two_promotions_at_once_one_wins(mlflow_home, bare_version, registry):
    for _ in range(3):
        bare_version()
    aliases.set_champion(registry, "1", None)
    gate, outcomes = threading.Barrier(2), {}

    def promote(version):
        gate.wait()
        try:
            aliases.set_champion(registry, version, "1")
            outcomes[version] = "won"
        except CheckFailed:
            outcomes[version] = "refused"

    threads = [threading.Thread(target=promote, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes.values()) == ["refused", "won"]
    (winner,) = [version for version, outcome in outcomes.items() if outcome == "won"]
    found, stage = state(mlflow_home)
    assert found == {"champion": winner, "previous": "1"}
    assert sorted(stage.values()) == ["Archived", "None", "Production"]


class Killed(BaseException):
    """Stands for kill -9: nothing in the code under test may catch it."""


WRITES = (
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_model_version_tag",
    "set_registered_model_tag",
    "delete_registered_model_tag",
)


def die_before_write(monkeypatch, number):
    """From now on the process dies in front of its `number`-th write; the returned function ends that."""
    counter, real = itertools.count(), {name: getattr(MlflowClient, name) for name in WRITES}
    for name in WRITES:

        def write(self, *args, _name=name, **kwargs):
            if next(counter) == number:
                raise Killed
            return real[_name](self, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, write)
    return monkeypatch.undo


def test_promotion_killed_before_any_write_is_finished_by_the_next(mlflow_home, bare_version, monkeypatch, registry):
    for _ in range(2):
        bare_version()
    for crash in itertools.count():
        new = bare_version()
        before = registry.champion()
        aliases.set_challenger(registry, new)
        alive = die_before_write(monkeypatch, crash)
        try:
            aliases.set_champion(registry, new, before)
            died = False
        except Killed:
            died = True
        alive()
        assert registry.champion() in {before, new}
        aliases.set_champion(registry, new, before)
        found, stage = state(mlflow_home)
        assert found == ({"champion": new, "previous": before} if before else {"champion": new})
        assert [version for version, name in stage.items() if name == "Production"] == [new]
        assert "Staging" not in stage.values()
        if not died:
            break
    assert crash >= 5  # replaces, champion, previous, challenger, two stage tags


@pytest.mark.long
def test_rollback_killed_before_any_write_goes_back_once(mlflow_home, bare_version, monkeypatch, registry):
    for crash in itertools.count():
        base = registry.champion()
        chain = [bare_version(), bare_version(), bare_version()]
        for version in chain:
            aliases.set_champion(registry, version, base)
            base = version
        alive = die_before_write(monkeypatch, crash)
        try:
            aliases.rollback(registry)
            died = False
        except Killed:
            died = True
        alive()
        assert registry.champion() in {chain[1], chain[2]}
        if died:
            assert aliases.rollback(registry) == (chain[2], chain[1])
        found, stage = state(mlflow_home)
        assert found == {"champion": chain[1], "previous": chain[0]}
        assert [version for version, name in stage.items() if name == "Production"] == [chain[1]]
        client = tracking.connect(mlflow_home)
        assert client.get_model_version("finsent", chain[2]).tags["rolled_back"] == "true"
        assert not client.get_registered_model("finsent").tags
        if not died:
            break
    assert crash >= 5


def test_whatever_runs_next_finishes_a_killed_promotion(mlflow_home, bare_version, monkeypatch, registry):
    for version, before in (("1", None), ("2", "1")):
        bare_version()
        aliases.set_champion(registry, version, before)
    bare_version()
    alive = die_before_write(monkeypatch, 2)  # the alias is written, nothing after it
    with pytest.raises(Killed):
        aliases.set_champion(registry, "3", "2")
    alive()
    assert state(mlflow_home)[0] == {"champion": "3", "previous": "1"}
    assert aliases.rollback(registry) == ("3", "2")
    assert state(mlflow_home)[0] == {"champion": "2", "previous": "1"}
