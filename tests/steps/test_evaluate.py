"""What the evaluation says of where a version comes from, and of the rows that it scored."""

import shutil
from dataclasses import replace

import pytest

from finsent.cli.output import as_text
from finsent.cli.render import render_evaluation
from finsent.config import Source
from finsent.data.dataset import data_version, load_split
from finsent.data.sample import sample_sources
from finsent.errors import CheckFailed
from finsent.models.manifest import verify_manifest, write_manifest
from finsent.registry import audit_log, tracking
from finsent.registry.client import Registry
from finsent.registry.verification import unverified_origin
from finsent.steps.context import make_context
from finsent.steps.evaluate import evaluate, prepare
from finsent.steps.evaluate_ad_hoc import evaluate_file
from finsent.steps.import_export import import_adapter
from finsent.steps.ingest import ingest
from finsent.steps.promote import promote

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading

UNKNOWN = "It is not known whether it trained on these test rows"


@pytest.fixture
def quick(tiny_config):
    return tiny_config.model_copy(update={"gate": tiny_config.gate.model_copy(update={"bootstrap_resamples": 100})})


@pytest.mark.usefixtures("proof_in_process")
def test_an_imported_adapter_may_have_seen_the_test_rows_and_is_refused(mlflow_home, quick, make_adapter):
    ingest(make_context(quick, mlflow_home), sample_sources(1)[:1])
    imported = import_adapter(
        make_context(quick, mlflow_home), make_adapter(0)
    )  # its manifest names version 1 of another home's data
    evidence = evaluate(make_context(quick, mlflow_home), version=imported.model_version).evidence
    assert data_version(mlflow_home).leaks == 0
    assert evidence.leaks is None
    assert evidence.naive_split is None
    assert UNKNOWN in evidence.leaks_unknown_reason
    record = tracking.connect(mlflow_home).get_model_version("finsent", imported.model_version)
    assert UNKNOWN in record.description
    assert "None leaks" not in record.description
    decision = promote(make_context(quick, mlflow_home), version=imported.model_version)
    assert decision.decision == "refused"
    assert any(UNKNOWN in reason for reason in decision.reasons)


@pytest.mark.usefixtures("proof_in_process")
def test_scoring_a_file_says_how_much_of_it_is_in_the_training_split(mlflow_home, quick, make_adapter, tmp_path):
    version = import_adapter(make_context(quick, mlflow_home), make_adapter(0)).model_version
    path = tmp_path / "mixed.csv"
    path.write_text("text,label\nnobody has read this before,neutral\nnor has anybody read that,bullish\n", encoding="utf-8")
    source = Source(uri=str(path))
    alone = evaluate_file(make_context(quick, mlflow_home), version, source)
    assert alone.n_in_training is None
    ingest(make_context(quick, mlflow_home), sample_sources(1)[:1])
    seen, held_out = (load_split(mlflow_home, split).texts[0] for split in ("train", "test"))
    with path.open("a", encoding="utf-8") as file:
        file.write("a label that nobody knows,up\n")
        file.writelines(f'"{text.replace(chr(34), chr(34) * 2)}",bearish\n' for text in (seen, seen.upper(), held_out))
    result = evaluate_file(make_context(quick, mlflow_home), version, source)
    assert (result.evidence.n_test, result.n_in_training, result.skipped) == (5, 2, {"unknown label": 1})
    said = as_text(render_evaluation(result))
    assert f"5 rows of {path}, 2 of them in the training split" in said
    assert "held-out" not in said


def test_a_workspace_that_cannot_record_an_evaluation_does_not_begin_one(served, quick, tmp_path):
    other = replace(served.home, root=tmp_path / "other")
    with pytest.raises(CheckFailed, match="is empty or gone"):
        prepare(make_context(quick, other), served.version)


def test_a_version_trained_here_says_what_a_naive_split_would_have_claimed(served):
    from finsent.registry.evidence_store import load_evidence
    from finsent.reporting.summaries import format_naive_split
    from finsent.steps.evaluate import EvaluationResult

    evidence = load_evidence(Registry(served.home, "finsent"), served.version)
    naive, leak = evidence.naive_split, data_version(served.home).naive_leak
    assert naive["leak"] == leak
    assert naive["n_training"] == 500
    assert naive["held_out_accuracy"] == evidence.metrics["accuracy"]
    expected = (1 - leak) * naive["held_out_accuracy"] + leak * naive["training_accuracy"]
    assert naive["estimated_accuracy"] == pytest.approx(expected)
    assert format_naive_split(naive) in as_text(
        render_evaluation(EvaluationResult("run", served.version, evidence, 1.0, 1.0, 1.0))
    )
    record = tracking.connect(served.home).get_model_version("finsent", served.version)
    assert format_naive_split(naive) in record.description


@pytest.mark.usefixtures("proof_in_process")
def test_an_imported_copy_is_not_cleared_by_the_manifest_that_came_with_it(mlflow_home, quick, make_adapter, tmp_path):
    context = make_context(quick, mlflow_home)
    ingest(context, sample_sources(1)[:1])
    data = data_version(mlflow_home)
    copy = tmp_path / "copy"  # of an adapter of this home, so it says: with other weights and digests to match
    shutil.copytree(make_adapter(0), copy)
    claimed = {"data_version": data.version, "data_fingerprint": data.fingerprint}
    write_manifest(copy, verify_manifest(copy).model_copy(update=claimed))
    version = import_adapter(context, copy).model_version
    evidence = evaluate(context, version=version).evidence
    assert evidence.leaks is None
    assert "only its own manifest" in evidence.leaks_unknown_reason
    record = context.registry.get_version(version)
    context.registry.client.delete_model_version_tag("finsent", version, "imported")
    untagged = context.registry.get_version(version)
    manifest = verify_manifest(copy)
    assert unverified_origin(context.registry, untagged, manifest) is not None, "its run imported it all the same"
    with tracking.start_run(quick, mlflow_home, kind="train") as run_id:
        context.registry.register(copy, run_id=run_id, profile="nano")
    assert unverified_origin(context.registry, record, manifest) is None, "the very weights of a version trained here"
    other = manifest.model_copy(update={"files": {**manifest.files, "adapter_model.safetensors": "0" * 64}})
    assert unverified_origin(context.registry, record, other) is not None
    context.registry.client.delete_run(record.run_id)
    before = len(audit_log.read(mlflow_home.audit_log))
    with pytest.raises(CheckFailed, match=r"was deleted. Restore it: `mlflow runs restore"):
        evaluate(context, version=version)
    assert len(audit_log.read(mlflow_home.audit_log)) == before
