"""Publishing to MLflow, shared by the steps evaluate and promote: evaluations, and report and model card with a decision."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.config import GateConfig
from finsent.errors import TrackingError
from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.registry.aliases import set_candidate
from finsent.registry.audit_log import EntryKey
from finsent.registry.client import Registry, VersionTag
from finsent.registry.evidence_store import EVIDENCE, EVIDENCE_FOLDER, read_evidence, record_evidence
from finsent.registry.gate import Decision, evaluate_gate
from finsent.registry.mlflow_errors import failed_at_mlflow
from finsent.registry.promotion import manual_block, with_artifact
from finsent.registry.tracking import log_dataset, start_run
from finsent.reporting.summaries import DecisionSummary, champion_remeasured, final_decision, gate_preview
from finsent.steps.context import Context

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.evaluation.build_evidence import ModelScores


def publish_evaluation(
    context: Context, evidence: Evidence, rows: "Split", own: "ModelScores", champion: "ModelScores | None"
) -> bool:
    """Audit log, then artifacts on the training run, metrics on the LoggedModel, report and card; the version's tags come last.

    The gate is evaluated here, once: the decision goes into the audit log with the evidence, for the promotion to use.

    Returns:
        Whether the version is a candidate: it beats every baseline significantly.

    Raises:
        CheckFailed: the audit log was tampered with.
        ServiceError: MLflow does not answer.
    """
    from finsent.reporting.evaluation_report import evaluation_metrics, render_pages, version_description, write_report_inputs

    registry, rules, version = context.registry, context.config.gate, evidence.model_version
    client, run_id = registry.client, str(registry.get_version(version).run_id)
    is_champion = evidence.champion_version == version
    decision = evaluate_gate(evidence, rules, evidence.champion_version)
    with tempfile.TemporaryDirectory(prefix="finsent-evaluation-") as scratch:
        folder = Path(scratch)
        content = evidence.model_dump_json(indent=2).encode()
        (folder / Path(EVIDENCE).name).write_bytes(content)
        write_report_inputs(context.config, folder, evidence, rows, own, champion)
        record_evidence(registry, rules, evidence, content, None if is_champion else decision)
        client.log_artifacts(run_id, str(folder), EVIDENCE_FOLDER)
        dataset = log_dataset(
            client,
            run_id,
            context.workspace,
            table="tweets",
            version=evidence.data_version or 0,
            fingerprint=evidence.data_fingerprint or "",
            context="evaluation",
            split="test",
            rows=evidence.n_test,
        )
        registry.log_model_metrics(version, evaluation_metrics(evidence), run_id=run_id, dataset=dataset)
        failed = _failed_baselines(decision)
        set_candidate(registry, version, failed)
        summary = champion_remeasured(version) if is_champion else _preview(registry, rules, evidence, decision)
        client.log_artifacts(run_id, str(render_pages(folder, evidence, summary)), EVIDENCE_FOLDER)
    assert evidence.metrics is not None, "measured above"  # noqa: S101 - tells the type checker
    tags: dict[VersionTag, object] = {
        "evaluation_run": run_id,
        "accuracy": f"{evidence.metrics['accuracy']:.4f}",
        "macro_f1": f"{evidence.metrics['macro_f1']:.4f}",
    }
    registry.set_tags(version, tags)
    client.update_model_version(registry.name, version, description=version_description(evidence, EVIDENCE_FOLDER))
    return not failed


def _failed_baselines(decision: Decision) -> Sequence[str]:
    """Reasons why the version does not beat every baseline significantly; fails closed where the gate could not tell."""
    prefixes = tuple(f"beats_{name}" for name in BASELINE_NAMES)
    found = [rule for rule in decision.rules if rule.name.startswith(prefixes)]
    return [rule.reason for rule in found if rule.status != "pass"] if found else decision.reasons


def _preview(registry: Registry, rules: GateConfig, evidence: Evidence, decision: Decision) -> DecisionSummary:
    """What the gate would decide now, for the report: with manual blocks, the artifact, and the champion of now."""
    version, current = evidence.model_version, registry.champion()
    record = registry.get_version(version)
    if current != evidence.champion_version:
        decision = evaluate_gate(evidence, rules, current)
    found = manual_block(registry, record) or with_artifact(registry, record, decision, evidence.manifest_sha256)
    return gate_preview(version, found.decision, found.reasons, map(astuple, found.rules))


def publish_ad_hoc_evaluation(context: Context, evidence: Evidence, rows: "Split", own: "ModelScores", description: str) -> str:
    """The same pages and metrics in a run of their own: no evidence, nothing that the gate reads; returns the run's id."""
    from finsent.registry.tracking import RunTag
    from finsent.reporting.evaluation_report import evaluation_metrics, render_pages, write_report_inputs

    client = context.registry.client
    tags: dict[RunTag, str] = {"model_version": evidence.model_version, "data": Path(description).name, **context.run_tags}
    with (
        start_run(context.config, context.workspace, kind="evaluate", tags=tags) as run_id,
        tempfile.TemporaryDirectory(prefix="finsent-evaluation-") as scratch,
    ):
        folder = Path(scratch)
        for key, value in evaluation_metrics(evidence).items():
            client.log_metric(run_id, key, value)
        # under another name than evidence's: the gate must never take it for that
        (folder / "figures.json").write_text(evidence.model_dump_json(indent=2), encoding="utf-8")
        write_report_inputs(context.config, folder, evidence, rows, own, None)
        client.log_artifacts(run_id, str(folder), EVIDENCE_FOLDER)
        client.log_artifacts(run_id, str(render_pages(folder, evidence, None)), EVIDENCE_FOLDER)
    return run_id


def publish_decision(
    registry: Registry, version: str, outcome: str, decision: Decision, author: Mapping[EntryKey, str | None]
) -> None:
    """Render report and model card again, with a decision that was made; `outcome` as of `final_decision`.

    Raises:
        ServiceError: MLflow, or its artifact store, does not answer.
        TrackingError: it says no, as for a run that was deleted.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    rules = map(astuple, decision.rules)
    who, why = author.get("who"), author.get("why")
    publish_report(registry, version, final_decision(version, outcome, decision.reasons, rules, when=now, who=who, why=why))


def publish_report(registry: Registry, version: str, decision: DecisionSummary) -> None:
    """Render report and model card again, with a decision; nothing where the version has no evidence. Idempotent.

    Raises:
        ServiceError: MLflow, or its artifact store, does not answer.
        TrackingError: it says no, as for a run that was deleted.
    """
    from finsent.reporting.evaluation_report import REPORT_INPUTS, render_pages

    client, record = registry.client, registry.get_version(version)
    found = read_evidence(registry, record)
    if found.problem is not None:
        return
    try:
        with tempfile.TemporaryDirectory(prefix="finsent-decision-") as scratch:
            folder = Path(client.download_artifacts(record.run_id, EVIDENCE_FOLDER, scratch))
            if (folder / REPORT_INPUTS).is_file():  # an evaluation that was killed left only its evidence
                pages = render_pages(folder, found.evidence, decision)
                client.log_artifacts(record.run_id, str(pages), EVIDENCE_FOLDER)
    except (TrackingError, OSError) as error:
        what = f"the report of version {version!r} cannot be written to MLflow"
        lost = f"Restore the run {record.run_id!r} in MLflow, then run the same command again."
        raise failed_at_mlflow(error, what, answered=lost, outage="Try again.") from error
