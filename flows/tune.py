"""A hyper-parameter search on the validation split."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State

from finsent.steps import tune as step
from finsent.steps.context import Context
from finsent.steps.tune import TuneResult
from finsent.training.exclusive import TrainingBusy
from flows.gpu import training_place
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import retrying_task, show, skipped
from flows.train import link_run


@retrying_task("search {trials} trials", retries=1, first_delay=30.0)
def search(context: Context, trials: int | None, hours: float | None, study: str | None, space: str | None) -> TuneResult:
    """Start the search, or go on with it where it was interrupted."""
    return step.tune(context, trials=trials, hours=hours, study=study, space=Path(space) if space else None)


@retrying_task("show study {result.study}")
def show_study(context: Context, result: TuneResult) -> None:
    """Publish the trials and the link to the MLflow run."""
    create_table_artifact(
        [
            {"trial": trial.number, "state": trial.state, "loss": trial.value, "macro-F1": trial.macro_f1, **trial.params}
            for trial in result.trials
        ],
        key="tuning",
        description=f"Study {result.study}; best is trial {result.best.number}: `{result.config_file}`",
    )
    link_run(context, result.run_id, f"Search {result.run_id}")


@flow(name="tune", flow_run_name=run_name("tune {model} {profile} {data}"), log_prints=False)
def tune(
    trials: int | None = None,
    hours: float | None = None,
    study: str | None = None,
    space: str | None = None,
    settings: FlowSettings = FROM_ENVIRONMENT,
) -> TuneResult | State[TuneResult]:
    """Search hyper-parameters. Nothing is registered or promoted, and the test split is never read.

    Args:
        trials: Trials in all, earlier runs' included; left out, 20, or as many as `hours` allows.
        hours: No trial starts later than this after the beginning.
        study: Beginning of the study's name; left out, the profile's name.
        space: YAML file of what is varied, as an absolute path on the worker; left out, around the profile's values.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        try:
            with training_place(context.workspace, f"tune {settings.profile_name}"):
                result = search(context, trials, hours, study, space)
        except TrainingBusy as busy:
            return skipped(str(busy))
        describe_run(context, f"tune {context.config.registered_model}: study {result.study}", profile=context.config.profile)
        show(show_study, context, result)
    return result
