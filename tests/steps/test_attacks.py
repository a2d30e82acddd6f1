"""Ten ways to get a version promoted that has not proved itself. Each is refused, with its own reason, and nothing moves."""

import json
import math
import multiprocessing
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finsent.errors import CheckFailed
from finsent.models.manifest import MANIFEST, Manifest, file_sha256, write_manifest
from finsent.registry import audit_log, tracking
from finsent.registry.approvals import expires_at
from finsent.registry.client import Registry, logged_model_id
from finsent.registry.packaging import ADAPTER
from finsent.steps.context import make_context
from finsent.steps.promote import approve, promote
from finsent.workspace import resolve_workspace
from tests.steps.promotion import (
    AUTOMATIC,
    SIGNED,
    WITH_APPROVAL,
    evaluate_new,
    evidence_of,
    forget_connections,
    leave,
    register,
    snapshot,
    take,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, _mlflow_store, make_adapter):
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("arena") / "home")})
    home.root.mkdir()
    shutil.copyfile(_mlflow_store, home.root / "mlflow.db")
    evaluate_new(home, make_adapter(0))
    assert promote(make_context(AUTOMATIC, home)).decision == "promoted"
    evaluate_new(home, make_adapter(1), champion="1")
    return snapshot(home, tmp_path_factory.mktemp("kept") / "home")


@pytest.fixture
def arena(prepared):
    """A registry in which version 1 is champion and version 2 would pass."""
    return prepared.restore()


def artifact(home, version):
    """The folder in which the artifact store keeps the version's adapter."""
    record = tracking.connect(home).get_model_version("finsent", version)
    found = list(home.artifacts.glob(f"**/{logged_model_id(record)}/artifacts/{ADAPTER}"))
    assert len(found) == 1
    return found[0]


def re_sign(home, version, **changes):
    """What a thorough attacker does: every digest fits again, in the manifest and in the registry."""
    folder = artifact(home, version)
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    write_manifest(folder, manifest.model_copy(update=changes))
    tracking.connect(home).set_model_version_tag("finsent", version, "manifest_sha256", file_sha256(folder / MANIFEST))


def assert_refused(home, reason, rule=None, config=AUTOMATIC):
    """Promotion of version 2 is refused for the reason, on record, and the champion stays."""
    result = promote(make_context(config, home), version="2")
    assert result.decision == "refused"
    assert [text for text in result.reasons if reason in text], result.reasons
    assert result.champion_after == Registry(home, "finsent").champion() == "1"
    assert [item.status for item in result.rules if item.name == rule] in ([], ["fail"], ["missing"])
    assert rule is None or rule in {item.name for item in result.rules}
    last = audit_log.read(home.audit_log)[-1]
    assert (last["decision"], last["reasons"]) == ("refuse", list(result.reasons))
    return result


def test_00_without_an_attack_version_2_is_promoted(arena):
    assert promote(make_context(AUTOMATIC, arena), version="2").champion_after == "2"


def test_01_flipped_byte_in_the_adapter(arena):
    path = artifact(arena, "2") / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = assert_refused(arena, "'adapter_model.safetensors' in", "artifact")
    assert "is damaged or was changed" in result.reasons[0]
    assert "SHA-256 differs" in result.reasons[0]


@pytest.mark.parametrize("signed", [False, True])
def test_02_swapped_label_map(arena, signed):
    labels = ("Bullish", "Neutral", "Bearish")
    if signed:
        re_sign(arena, "2", labels=labels)
        assert_refused(arena, "the adapter's label order is ('Bullish', 'Neutral', 'Bearish')", "artifact")
    else:
        path = artifact(arena, "2") / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
        assert_refused(arena, "manifest of version '2' of 'finsent' is not the one that was registered", "artifact")


@pytest.mark.parametrize("signed", [False, True])
def test_03_head_replaced(arena, make_adapter, signed):
    shutil.copyfile(make_adapter(2) / "adapter_model.safetensors", artifact(arena, "2") / "adapter_model.safetensors")
    if signed:
        re_sign(arena, "2")
        assert_refused(arena, "is not the one that the evidence is about", "artifact")
    else:
        assert_refused(arena, "SHA-256 differs", "artifact")


@pytest.mark.parametrize("where", ["manifest", "registry"])
def test_04_base_precision_changed(arena, where):
    if where == "manifest":
        manifest = Manifest.model_validate_json((artifact(arena, "2") / MANIFEST).read_text())
        assert manifest.quantization.kind == "nf4"
        re_sign(arena, "2", quantization=manifest.quantization.model_copy(update={"kind": "none"}))
        assert_refused(arena, "is not the one that the evidence is about", "artifact")
    else:
        tracking.connect(arena).set_model_version_tag("finsent", "2", "quantization", "none")
        assert_refused(arena, "quantization 'none' instead of 'nf4'", "artifact")


@pytest.mark.parametrize("change", [{"ece": None}, {"ece": math.nan}, {"metrics": None}, {"robustness": None}])
def test_05_missing_metric(arena, change):
    take(arena, evidence_of(arena, "2", champion="1").model_copy(update=change))
    assert_refused(arena, f"Evidence is missing or not a number: {next(iter(change))}", "evidence_complete")


@pytest.mark.parametrize("leaks", [3, None])
def test_06_test_rows_in_training(arena, leaks):
    why = None if leaks else "It is not known what the version trained on."
    take(arena, evidence_of(arena, "2", champion="1").model_copy(update={"leaks": leaks, "leaks_unknown_reason": why}))
    assert_refused(arena, why or "Pairs of equal or nearly equal tweets across splits: 3, required exactly 0", "leaks")


@pytest.mark.parametrize("how", ["another champion", "too late"])
def test_07_stale_approval(arena, make_adapter, how):
    config = WITH_APPROVAL
    if how == "too late":  # a third of a second
        gate = config.gate.model_copy(update={"approval_expires_hours": 1e-4})
        config = config.model_copy(update={"gate": gate})
    take(arena, evidence_of(arena, "2", champion="1", config=config))
    assert promote(make_context(config, arena), version="2").decision == "pending_approval"
    if how == "another champion":
        evaluate_new(arena, make_adapter(0), champion="1")
        promote(make_context(AUTOMATIC, arena), version="3")
        reason, champion, stage = "stale evidence: champion changed", "3", "Archived"
    else:
        requested = expires_at(Registry(arena, "finsent"), config.gate, "2")
        _wait_until(requested)
        client = tracking.connect(arena)  # the registry's word on when is not asked for
        client.set_model_version_tag("finsent", "2", "approval_requested_at", "2099-01-01T00:00:00+00:00")
        reason, champion, stage = "The approval of version 2 comes too late", "1", "Candidate"
    result = approve(make_context(config, arena), "2", *SIGNED)
    assert result.decision == "refused"
    assert any(reason in text for text in result.reasons)
    assert Registry(arena, "finsent").aliases().get("challenger") is None
    assert Registry(arena, "finsent").champion() == champion
    tags = tracking.connect(arena).get_model_version("finsent", "2").tags
    assert (tags["approval"], tags["stage"]) == ("void", stage)
    last = audit_log.read(arena.audit_log)[-1]
    assert (last["action"], last["decision"], last["who"]) == ("approval_void", "refuse", "dana")


def _wait_until(moment):
    time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()) + 0.01)


def test_08_gate_loosened_after_the_evidence_was_taken(arena):
    take(arena, evidence_of(arena, "2", champion="1", accuracy=0.45))
    assert_refused(arena, "Accuracy: 0.45, required at least 0.5", "accuracy")
    loose = AUTOMATIC.model_copy(update={"gate": AUTOMATIC.gate.model_copy(update={"min_accuracy": 0.1})})
    assert_refused(arena, "Rules are set before a look, not after", "rules_declared", config=loose)


@pytest.mark.parametrize("version", ["2", "3"])
def test_09_two_promotions_at_once(arena, make_adapter, version):
    """Two real processes, with different challengers and with the same one."""
    evaluate_new(arena, make_adapter(0), champion="1")
    fork = multiprocessing.get_context("fork")
    together, said = fork.Barrier(2), fork.SimpleQueue()
    processes = [fork.Process(target=_promote_together, args=(arena, mine, together, said)) for mine in ("2", version)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    results = [said.get() for _ in processes]
    champion = Registry(arena, "finsent").champion()
    assert champion in {"2", version}
    if version == "2":  # the same one twice: it is the champion, and nobody is told anything else
        assert [result.decision for result in results] == ["promoted", "promoted"]
    else:
        (loser,) = [result for result in results if result.decision == "refused"]
        assert loser.model_version != champion
        assert any("the champion of 'finsent' is" in text or "stale evidence" in text for text in loser.reasons)
    stages = {str(v.version): v.tags["stage"] for v in tracking.connect(arena).search_model_versions("name='finsent'")}
    assert [number for number, stage in stages.items() if stage == "Production"] == [champion]
    assert Registry(arena, "finsent").aliases().get("previous") == "1"
    # three entries before and version 3's evaluation; then a decision each, of which the same one is written once
    assert audit_log.verify(arena.audit_log).length == (5 if version == "2" else 7)


def _promote_together(home, version, together, said):
    from finsent.steps import promote as module

    forget_connections(inherited=True)
    real = module.record

    def both_have_decided(*args, **kwargs):
        recorded = real(*args, **kwargs)
        if args[1].decision.decision == "promote":
            together.wait(30)
        return recorded

    module.record = both_have_decided
    said.put(module.promote(make_context(AUTOMATIC, home), version=version))
    os._exit(0)  # what other tests of this process registered for its end is not this child's to run


def rewrite_log(home, entries):
    """What a thorough attacker does: every hash of the chain fits again."""
    home.audit_log.unlink()
    for entry in entries:
        own = ("seq", "at", "previous_hash", "hash")
        audit_log.append(home.audit_log, {key: value for key, value in entry.items() if key not in own})


@pytest.mark.parametrize(
    "how", ["a reason", "a reason, and every hash after it", "a line removed", "the end", "the evidence's digest"]
)
def test_10_edited_audit_log(arena, how):
    lines = arena.audit_log.read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    if how == "a reason":
        lines[1] = lines[1].replace("There is no champion yet", "There is a champion")
        arena.audit_log.write_text("\n".join(lines) + "\n")
        reason = "line 2: the entry was changed after it was written"
    elif how == "a line removed":
        arena.audit_log.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
        reason = "line 2: the entry does not follow the one before it"
    elif how == "the end":
        arena.audit_log.write_text("\n".join(lines[:-1]) + "\n")
        reason = "line 3: it ends after 2 entries: its end was cut off"
    else:
        if how == "the evidence's digest":  # so that other evidence would pass for the one on record
            found = evidence_of(arena, "2", champion="1").model_dump_json()
            leave(arena, "2", found)
            entries[2]["evidence_sha256"] = "0" * 64
        else:
            entries[1]["reasons"] = ["forged"]
        rewrite_log(arena, entries)
        assert audit_log.verify(arena.audit_log).length == 3, "its own chain does not tell"
        reason = "has another entry"
    before = arena.audit_log.read_bytes()
    with pytest.raises(CheckFailed, match=reason):
        promote(make_context(AUTOMATIC, arena), version="2")
    assert Registry(arena, "finsent").champion() == "1"
    assert arena.audit_log.read_bytes() == before


def test_evidence_changed_after_it_was_taken(arena):
    take(arena, evidence_of(arena, "2", champion="1", accuracy=0.45))
    leave(arena, "2", evidence_of(arena, "2", champion="1", accuracy=0.95).model_dump_json())
    assert_refused(arena, "was changed after it was taken", "evidence")


def test_evidence_that_nobody_took(arena, make_adapter):
    version = register(arena, make_adapter(0))
    leave(arena, version, evidence_of(arena, version, champion="1").model_dump_json())
    result = promote(make_context(AUTOMATIC, arena), version=version)
    assert "is not recorded in the audit log" in result.reasons[0]
    assert Registry(arena, "finsent").champion() == "1"


def test_good_evidence_of_before_is_not_put_back_over_worse(arena):
    client = tracking.connect(arena)
    run_id = client.get_model_version("finsent", "2").run_id
    content = Path(client.download_artifacts(run_id, "evaluation/evidence.json")).read_text(encoding="utf-8")
    take(arena, evidence_of(arena, "2", champion="1", accuracy=0.45))
    leave(arena, "2", content)
    assert_refused(arena, "was changed after it was taken", "evidence")


def test_forged_stored_decision(arena):
    """The gate's decision is not taken from an evaluation's entry that MLflow does not know."""
    take(arena, evidence_of(arena, "2", champion="1", accuracy=0.45))
    entries = audit_log.read(arena.audit_log)
    forged = entries[-1]["gate_decision"]
    assert forged["decision"] == "refuse"
    forged["decision"] = "promote"
    for rule in forged["rules"]:
        rule["status"] = "pass"
    rewrite_log(arena, entries)
    with pytest.raises(CheckFailed, match="has another entry"):
        promote(make_context(AUTOMATIC, arena), version="2")
    assert Registry(arena, "finsent").champion() == "1"
