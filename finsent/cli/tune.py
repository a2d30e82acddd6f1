"""`finsent tune`: search hyper-parameters on training and validation rows."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finsent.cli.options import CommandResult, Settings, suggest_command, command, examples
from finsent.cli.output import key_values, section, shorten, table

if TYPE_CHECKING:
    from finsent.evaluation.tuning_plots import TrialRecord, Value
    from finsent.pipeline.tune import TuneResult


def register(group: click.Group) -> None:
    """Add `tune`."""
    command(
        group,
        "tune",
        "Search hyper-parameters on the validation split.",
        epilog=examples(
            "finsent tune",
            "finsent tune --trials 40 --hours 6",
            "finsent tune --profile llama-3.1-8b-fast --hours 12 --study night",
            "finsent tune --space space.yaml --set recipe.epochs=4",
        ),
        options=(
            click.option(
                "--trials", type=click.IntRange(min=1), metavar="N", help="Trials in all. Default: 20, or what --hours allows."
            ),
            click.option(
                "--hours",
                type=click.FloatRange(min=0, min_open=True),
                metavar="H",
                help="Start no trial later than this; the one at work is finished.",
            ),
            click.option("--study", metavar="NAME", help="Beginning of the study's name. Default: the profile's name."),
            click.option(
                "--space", type=Path, metavar="FILE", help="YAML file of what is varied. Default: around the profile's values."
            ),
        ),
    )(tune_command)


def tune_command(settings: Settings, *, trials: int | None, hours: float | None, study: str | None, space: Path | None) -> CommandResult:
    """Search settings of adapter and recipe for the lowest validation loss, with Optuna.

    The configuration's own settings are the first trial, so the best can only be better on the validation split. Trials
    that fall behind are pruned. The same command goes on where the last one was cut off. The test split is never read,
    nothing is registered and nothing is promoted: train with the file that is named at the end.
    """
    from finsent.pipeline.tune import tune

    result = tune(settings.config(), settings.home(), trials=trials, hours=hours, study=study, space=space)
    said = {
        "study": result.study,
        "trials": result.trials,
        "states": result.states,
        "added": result.added,
        "best": {"value": result.best.value, "params": result.best.params, "trial": result.best.number},
        "own": {"value": result.own.value, "params": result.own.params} if result.own else None,
        "config_file": result.config_file,
        "run_id": result.run_id,
    }
    return CommandResult(said, _text(result))


def _text(result: "TuneResult") -> str:
    best, own = result.best, result.own
    states = ", ".join(f"{count} {state}" for state, count in result.states.items())
    head = f"Study {result.study}: {len(result.trials)} trials ({states})"
    if not result.added:
        head += ". It was finished; more with --trials"
    rows = [_row("best", best), *([_row("own settings", own)] if own else [])]
    before = own.params if own else {}
    changed = [
        (key, f"{_short(before[key])} -> {_short(value)}" if key in before and before[key] != value else _short(value))
        for key, value in sorted(best.params.items())
    ]
    failed = [f"  trial {trial.number}: {shorten(trial.reason or '', 120)}" for trial in result.trials if trial.state == "failed"]
    if own is not None and own.number == best.number:
        verdict, following = "No trial was better than the configuration's own settings.", ""
    else:
        verdict = (
            "The best of many looks better on the rows that chose it than on others: `finsent evaluate` tells how good it is."
        )
        # the file holds the whole configuration: --set of this invocation would undo what the search found
        following = f"Next: {suggest_command(f'finsent train --config {result.config_file}', configuration=False)}"
    return "\n\n".join(
        part
        for part in (
            section(head, table(("", "trial", "validation loss", "accuracy", "macro-F1"), rows)),
            section("Best settings", key_values(changed)),
            section("Failed", *failed) if failed else "",
            verdict,
            following,
        )
        if part
    )


def _row(name: str, trial: "TrialRecord") -> tuple[object, ...]:
    return name, str(trial.number), trial.value, trial.accuracy, trial.macro_f1


def _short(value: "Value") -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
