"""A hyper-parameter search on the validation split."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from finsent.steps.tune import TuneResult
from flows import links
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step(retries=1, first_delay=30.0)
def search_settings(setup: Setup, trials: int | None, hours: float | None, study: str | None, space: str | None) -> TuneResult:
    """Go on with the search, or start it; publish its trials and the way to the MLflow run."""
    from finsent.steps.tune import tune as run

    config, home = setup.load()
    result = run(config, home, trials=trials, hours=hours, study=study, space=Path(space) if space else None)
    create_table_artifact(
        [
            {"trial": trial.number, "state": trial.state, "loss": trial.value, "macro-F1": trial.macro_f1, **trial.params}
            for trial in result.trials
        ],
        key="tuning",
        description=f"Study {result.study}; best is trial {result.best.number}: `{result.config_file}`",
    )
    page = links.run_page(home, result.run_id)
    if page:
        create_link_artifact(page, link_text=f"Search {result.run_id}", key="mlflow-run")
    else:
        create_markdown_artifact(f"Run `{result.run_id}`: open with `{links.how_to_open(home)}`", key="mlflow-run")
    return result


@flow(name="tune", log_prints=False)
def tune(
    trials: int | None = None,
    hours: float | None = None,
    study: str | None = None,
    space: str | None = None,
    setup: Setup = FROM_ENVIRONMENT,
) -> TuneResult:
    """Search hyper-parameters. Nothing is registered or promoted, and the test split is never read.

    Args:
        trials: Trials in all, earlier runs' included; left out, 20, or as many as `hours` allows.
        hours: No trial starts later than this after the beginning.
        study: Beginning of the study's name; left out, the profile's name.
        space: YAML file of what is varied, as an absolute path on the worker; left out, around the profile's values.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    return search_settings(setup, trials, hours, study, space)
