"""One training, registered as a version: prepare, fit, calibrate, register."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State

from finsent.steps import train as step
from finsent.steps.context import Context
from finsent.steps.train import CalibratedAdapter, TrainingJob, TrainResult
from finsent.training.exclusive import TrainingBusy
from flows import artifacts
from flows.gpu import training_place
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import retrying_task, show, skipped


@retrying_task("prepare training")
def prepare_training(context: Context, resume: str | None) -> TrainingJob:
    """Choose the data version, and check that it can be trained on."""
    return step.prepare(context, resume=resume)


@retrying_task("fit {job.profile} data-v{job.data.version}", retries=1, first_delay=30.0)
def fit_adapter(context: Context, job: TrainingJob) -> tuple[str, Any]:
    """Train, or resume from the last checkpoint: a retry does so too."""
    return step.fit(context, job)


@retrying_task("calibrate {job.profile} data-v{job.data.version}")
def calibrate_adapter(context: Context, job: TrainingJob, run_id: str, trained: Any) -> CalibratedAdapter:
    """Fit temperature and abstain threshold on the validation split, with a fresh load of the saved adapter."""
    return step.calibrate(context, job, run_id, trained)


@retrying_task("register {job.profile} data-v{job.data.version}", retries=5, first_delay=10.0)
def register_version(
    context: Context, job: TrainingJob, run_id: str, trained: Any, calibration: CalibratedAdapter
) -> TrainResult:
    """Register the adapter. A task of its own: a registry that is away for a while must not train twice."""
    return step.register(context, job, run_id, trained, calibration)


@retrying_task("show training of version {result.model_version}")
def show_training(context: Context, result: TrainResult) -> None:
    """Publish the figures and the link to the MLflow run."""
    create_table_artifact(
        [
            {"figure": "rows", "value": result.rows},
            {"figure": "optimizer steps", "value": result.steps},
            {"figure": "seconds", "value": round(result.seconds, 1)},
            {"figure": "rows per second", "value": round(result.rows_per_second, 1)},
            *({"figure": f"validation {name}", "value": round(value, 4)} for name, value in result.validation.items()),
        ],
        key="training",
        description=f"Version {result.model_version} of {context.config.registered_model}",
    )
    link_run(context, result.run_id, f"Training run {result.run_id}")


def link_run(context: Context, run_id: str, text: str) -> None:
    """Leave the way to an MLflow run: a link, or the command that opens a store without a server."""
    page = artifacts.run_page(context.workspace, run_id)
    if page:
        create_link_artifact(page, link_text=text, key="mlflow-run")
    else:
        opening = artifacts.how_to_open(context.workspace)
        create_markdown_artifact(f"Run `{run_id}`: open with `{opening}`", key="mlflow-run")


@flow(name="train", flow_run_name=run_name("train {model} {profile} {data}"), log_prints=False)
def train(resume: str | None = None, settings: FlowSettings = FROM_ENVIRONMENT) -> TrainResult | State[str]:
    """Train and register one version. Nothing is promoted. Skipped, with the reason, where it waited too long for another one.

    Args:
        resume: MLflow run to resume from its last checkpoint; left out, the interrupted training with the same settings and
            data if there is one, or a new one.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        job = prepare_training(context, resume)
        linked = describe_run(
            context,
            f"train {context.config.registered_model} {job.profile} data-v{job.data.version}",
            profile=job.profile,
            data=job.data.version,
        )
        try:
            with training_place(context.workspace, f"train {job.profile} data-v{job.data.version}"):
                run_id, trained = fit_adapter(linked, job)
                calibration = calibrate_adapter(linked, job, run_id, trained)
                result = register_version(linked, job, run_id, trained, calibration)
        except TrainingBusy as busy:
            return skipped(str(busy), str(busy))
        show(show_training, context, result)
    return result
