"""A version's evidence on the held-out test split: scores, champion, baselines, round trip; build evidence; publish."""

import time
from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.utilities.annotations import opaque

from finsent.evaluation.evidence import Evidence
from finsent.steps import evaluate as step
from finsent.steps.context import Context
from finsent.steps.evaluate import EvaluationPlan, EvaluationResult
from flows import artifacts
from flows.artifacts import metrics_rows
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import retrying_task, show


@retrying_task("prepare evaluation")
def prepare_evaluation(context: Context, version: str | None) -> EvaluationPlan:
    """Settle on version, champion and test rows."""
    return step.prepare(context, version)


@retrying_task("score version {plan.version} on {plan.n_test} test rows")
def score_version(context: Context, plan: EvaluationPlan) -> Any:
    """Score the test rows and their perturbed texts with a fresh load of the version."""
    return step.score_version(context, plan)


@retrying_task("score champion {plan.champion} on {plan.n_test} test rows")
def score_champion(context: Context, plan: EvaluationPlan) -> Any:
    """Score the same rows with the champion."""
    return step.score_champion(context, plan)


@retrying_task("train baselines on data-v{plan.data.version}")
def score_baselines(context: Context, plan: EvaluationPlan) -> Any:
    """Train the baselines on the version's training rows and predict the test rows."""
    return step.score_baselines(context, plan)


@retrying_task("check round trip of version {version}", retries=0)
def check_round_trip(version: str, check: Callable[[], Any]) -> Any:  # noqa: ARG001 - the version names the run
    """Load the version from the registry in a new process and compare it with what training recorded."""
    return check()


@retrying_task("build evidence of version {plan.version}")
def build_evidence(context: Context, plan: EvaluationPlan, own: Any, champion: Any, baselines: Any, round_trip: Any) -> Evidence:
    """Intervals, slices, calibration and paired tests: what the gate will read."""
    return step.build_evidence(context, plan, own, champion, baselines, round_trip)


@retrying_task("publish evaluation of version {plan.version}")
def publish_evaluation(
    context: Context, plan: EvaluationPlan, evidence: Any, own: Any, champion: Any, started: float
) -> EvaluationResult:
    """Audit log, then artifacts, metrics, report and tags in MLflow. A task of its own: MLflow may be away for a while."""
    return step.publish(context, plan, evidence, own, champion, started=started)


@retrying_task("show evaluation of version {result.model_version}")
def show_evaluation(context: Context, result: EvaluationResult) -> None:
    """Publish the scores beside the baseline's and the champion's, and the link to the version in MLflow."""
    create_table_artifact(
        metrics_rows(result.evidence),
        key="metrics",
        description=f"Version {result.model_version}, {result.evidence.n_test} test rows",
    )
    page = artifacts.version_page(context.workspace, context.config.registered_model, result.model_version)
    if page:
        text = f"Version {result.model_version} of {context.config.registered_model}"
        create_link_artifact(page, link_text=text, key="mlflow-model")


@flow(name="evaluate", flow_run_name=run_name("evaluate {version} of {model}"), log_prints=False)
def evaluate(version: str | None = None, settings: FlowSettings = FROM_ENVIRONMENT) -> EvaluationResult:
    """Build a version's evidence; the gate reads it later.

    The version is scored first and alone, so that its speed is measured undisturbed; champion, baselines and round trip follow at
    the same time, except that one model at a time is on a GPU.

    Args:
        version: Registered version; left out, the newest.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    started = time.perf_counter()
    with resolved(settings) as context:
        plan = prepare_evaluation(context, version)
        describe_run(
            context,
            f"evaluate version {plan.version} of {context.config.registered_model} data-v{plan.data.version}",
            version=plan.version,
            data=plan.data.version,
        )
        with step.start_round_trip(context, plan) as check:
            own = score_version(context, plan)
            baselines = score_baselines.submit(context, plan)
            champion = None
            if plan.champion not in {None, plan.version}:
                champion = score_champion.submit(context, plan)
                if step.proof_needs_free_gpu():
                    champion.wait()
            round_trip = check_round_trip.submit(plan.version, check)
            # results, not futures: a task whose input failed would end without its error
            others = [champion.result() if champion else None, baselines.result(), round_trip.result()]
            evidence = build_evidence(context, plan, opaque(own), *map(opaque, others))
        result: EvaluationResult = publish_evaluation(context, plan, opaque(evidence), opaque(own), opaque(others[0]), started)
        show(show_evaluation, context, result)
    return result
