"""`finsent train`, `tune` and `evaluate`, which make and measure versions; `finsent export` and `import`, which move them."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.class_files import class_sources, require_no_other_files, take_class_files
from finsent.cli.options import LOCAL_PATH, CommandResult, Settings, cli, examples, suggest_command
from finsent.cli.output import Renderable, key_values, lines, note, paragraph, plain, section, shorten, stack, table
from finsent.cli.promote import report_line, use_prefect_server
from finsent.cli.render import render_evaluation, render_import_evaluation, render_training
from finsent.cli.render_data import render_files
from finsent.cli.source_options import file_options, given_options, label_options, source_settings
from finsent.config import Source
from finsent.errors import InputError
from finsent.training.distributed import world_from_env
from finsent.training.exclusive import hold_training
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from finsent.data.splits import SplitName
    from finsent.models.merged import Precision
    from finsent.steps.tune import TuneResult
    from finsent.tuning.search import TrialRecord
    from finsent.tuning.space import Value

PRECISIONS: "tuple[Precision, ...]" = ("bfloat16", "float16", "float32")


@cli.command(
    "train",
    epilog=examples(
        "finsent train",
        "finsent train --profile llama-3.1-8b",
        "finsent train --set recipe.epochs=1 --set recipe.seed=7",
        "finsent train --resume 0a1b2c3d",
        "torchrun --nproc-per-node 4 -m finsent train --profile llama-3.1-8b-fast",
    ),
)
@click.option("--resume", metavar="RUN", help="MLflow run of an interrupted training to resume.")
@click.pass_obj
def train_command(settings: Settings, resume: str | None) -> CommandResult | None:
    """Train an adapter and register it as a version.

    LoRA adapters (QLoRA) are trained on the training split and logged to MLflow. Nothing is promoted: a version scores tweets
    only once the gate has passed it. An interrupted training of the same
    settings and data resumes from its checkpoint by itself. On several GPUs: `torchrun --nproc-per-node N -m finsent train`.
    """
    from finsent.steps.train import train, train_worker

    context = settings.context()
    world = world_from_env()
    if not world.is_main:
        train_worker(context)
        return None
    if world.size > 1:
        _require_free_place(context.workspace)
    # the other processes of a launch would wait for this one, and give up after an hour
    with _training_place(context.workspace, "train", wait=-1.0 if world.size == 1 else 0.0):
        result = train(context, resume=resume)
    return CommandResult(result, render_training(result))


def _training_place(home: Workspace, command: str, *, wait: float = -1.0) -> AbstractContextManager[None]:
    """Hold the GPU's place for training, as flows do; without a Prefect server that of this home alone."""
    if not use_prefect_server(home, "this command does not wait for trainings on other machines"):
        return hold_training(home, f"finsent {command}", wait=wait)
    from flows.gpu import training_place

    return training_place(home, f"finsent {command}", wait=wait)


def _require_free_place(home: Workspace) -> None:
    """Refuse to wait for it: the other processes of the launch would wait for this one, and give up after an hour.

    Raises:
        CheckFailed: another training holds the place.
    """
    if use_prefect_server(home, "this command does not look for a training of its flows"):
        from flows.gpu import require_free_place

        require_free_place()


@cli.command(
    "tune",
    epilog=examples(
        "finsent tune",
        "finsent tune --trials 40 --hours 6",
        "finsent tune --profile llama-3.1-8b-fast --hours 12 --study night",
        "finsent tune --space space.yaml --set recipe.epochs=4",
    ),
)
@click.option(
    "--trials", type=click.IntRange(min=1), metavar="N", help="Trials in all. Default: 20, or as many as --hours allows."
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    metavar="H",
    help="Start no trial later than this; the running one is finished.",
)
@click.option("--study", metavar="NAME", help="Prefix of the study's name. Default: the profile's name.")
@click.option(
    "--space", type=LOCAL_PATH, metavar="FILE", help="YAML file of the search space. Default: around the profile's values."
)
@click.pass_obj
def tune_command(
    settings: Settings, trials: int | None, hours: float | None, study: str | None, space: Path | None
) -> CommandResult:
    """Search hyper-parameters on the validation split.

    Settings of adapter and recipe are searched for the lowest validation loss, with Optuna. The first trial uses the
    configuration's own settings, so the best can only be better on the validation split. Trials that fall behind are
    pruned. Run again after an interruption, the same command resumes the study. The test split is never read, nothing is
    registered and nothing is promoted: train with the file that is named at the end.
    """
    from finsent.steps.tune import tune

    context = settings.context()
    with _training_place(context.workspace, "tune"):
        result = tune(context, trials=trials, hours=hours, study=study, space=space)
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
    return CommandResult(said, _render_study(result))


def _render_study(result: "TuneResult") -> Renderable:
    best, own = result.best, result.own
    states = ", ".join(f"{count} {state}" for state, count in result.states.items())
    head = f"Study {result.study}: {len(result.trials)} trials ({states})"
    if not result.added:
        head += ". It was finished; more with --trials"
    rows = [_trial_row("best", best), *([_trial_row("own settings", own)] if own else [])]
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
            "The best of many trials looks better on the rows that chose it than on others: `finsent evaluate` measures how good "
            "it is."
        )
        # the file holds the whole configuration: --set of this invocation would undo what the search found
        following = f"Next: {suggest_command(f'finsent train --config {result.config_file}', configuration=False)}"
    return stack(
        section(head, table(("", "trial", "validation loss", "accuracy", "macro-F1"), rows)),
        section("Best settings", key_values(changed)),
        section("Failed", *failed) if failed else "",
        paragraph(verdict),
        following,
    )


def _trial_row(name: str, trial: "TrialRecord") -> tuple[object, ...]:
    return name, str(trial.number), trial.value, trial.accuracy, trial.macro_f1


def _short(value: "Value") -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cli.command(
    "evaluate",
    epilog=examples(
        "finsent evaluate",
        "finsent evaluate 3",
        "finsent evaluate champion --data desk.csv --label sentiment",
        "finsent evaluate champion --label Bullish=bull.csv --label Bearish=bear.csv",
        "finsent evaluate 3 --data-version 12 --split validation",
    ),
)
@click.argument("model", required=False, metavar="[MODEL]")
@click.option("--version", metavar="N", help="The same as MODEL. Default: the newest version.")
@click.option("--data", metavar="FILE", help="Labelled file to score instead of the held-out test split.")
@file_options
@label_options
@click.option("--data-version", type=int, metavar="N", help="Version of the table to score instead of the newest.")
@click.option(
    "--split", type=click.Choice(["train", "validation", "test"]), default="test", show_default=True, help="Rows of the table."
)
@click.pass_obj
def evaluate_command(
    settings: Settings,
    /,
    *,
    model: str | None,
    version: str | None,
    data: str | None,
    data_version: int | None,
    split: "SplitName",
    **given: Any,
) -> CommandResult:
    """Score a version on the held-out test split.

    The version is loaded afresh and scored beside baselines and champion on the same rows. MODEL is a version's number or
    an alias (champion, challenger, previous). The evidence goes to MLflow with a report and a model card, where the gate
    reads it. With --data any labelled file is scored instead, with --data-version or --split other rows of the table; such
    ad-hoc figures are recorded, but are no evidence. Scoring test rows counts as a use of the test set.
    """
    from finsent.data.sources.file_counts import next_to_nothing
    from finsent.steps.evaluate import EvaluationResult, evaluate
    from finsent.steps.evaluate_ad_hoc import FileEvaluation, evaluate_file, evaluate_split

    if model is not None and version is not None:
        raise InputError(f"MODEL {model!r} and --version {version!r} name a version twice. Give one of them.")
    if data is not None and (data_version is not None or split != "test"):
        raise InputError(
            f"--data {data!r} is a file, and --data-version and --split choose rows of the table. Give one or the other."
        )
    given, by_class = take_class_files(given)
    require_no_other_files([] if data is None else [data], by_class)
    if by_class and (data_version is not None or split != "test"):
        raise InputError(
            "--label CLASS=FILE gives files, and --data-version and --split choose rows of the table. Give one or the other."
        )
    if data is None and not by_class and (options := given_options(given)):
        raise InputError(f"{options[0]} says how a file is read. Give the file with --data.")
    context = settings.context()
    chosen = model or version
    wanted = context.registry.resolve(chosen) if chosen else context.registry.latest_version()
    if data or by_class:
        read_as = source_settings(given)
        result: EvaluationResult = evaluate_file(
            context, wanted, *([Source(uri=data, **read_as)] if data else class_sources(by_class, read_as))
        )
    elif data_version is not None or split != "test":
        result = evaluate_split(context, wanted, data_version, split)
    else:
        result = evaluate(context, version=wanted)
    metrics: dict[str, Any] = dict(result.evidence.metrics or {})
    found = {key: metrics.get(key) for key in ("accuracy", "macro_f1", "per_class", "n")}
    shown = render_evaluation(result)
    if isinstance(result, FileEvaluation):
        shown, code = stack(shown, render_files(result, "scored")), 2 if next_to_nothing(result.files) else 0
    else:
        shown, code = lines(shown, report_line(context, result.model_version) if result.data is None else ""), 0
    return CommandResult({**found, "intervals": result.evidence.intervals, **plain(result)}, shown, code=code)


@cli.command(
    "export",
    epilog=examples(
        "finsent export ./adapter",
        "finsent export ./adapter --version 3",
        "finsent export ./model --merged",
        "finsent export ./model --merged --precision float16",
    ),
)
@click.argument("folder", type=LOCAL_PATH)
@click.option("--version", metavar="N", help="Registered version. Default: the champion.")
@click.option("--merged", is_flag=True, help="The whole model with the adapter merged in, for model servers.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="With --merged: type of its weights. Default: bfloat16.")
@click.pass_obj
def export_command(
    settings: Settings, folder: Path, *, version: str | None, merged: bool, precision: "Precision | None"
) -> CommandResult:
    """Copy a version to a folder: its adapter, or merged.

    The adapter is verified, comes with its model card, and PEFT loads it as it is. With --merged the whole model is
    written, its adapter merged into the dequantised base, as an ordinary checkpoint that transformers and model servers
    load without PEFT; it is loaded again and compared with the live adapter.
    """
    if merged:
        return _export_merged(settings, folder, version, precision or PRECISIONS[0])
    if precision is not None:
        raise InputError(f"--precision {precision!r} is for --merged: an adapter keeps the type that it was trained in.")
    from finsent.steps.import_export import export_adapter

    result = export_adapter(settings.context(), folder, version=version)
    pairs = [("folder", result.folder), ("base", result.base or "its Hub id, in the card"), *result.files.items()]
    return CommandResult(result, section(f"Version {result.model_version} exported", key_values(pairs)))


def _export_merged(settings: Settings, folder: Path, version: str | None, precision: "Precision") -> CommandResult:
    from finsent.steps.import_export import export_merged

    result = export_merged(settings.context(), folder, version=version, precision=precision)
    error = f"{result.logit_error:.2g} standard deviations, {result.label_agreement:.0%} of labels equal"
    title = f"Version {result.model_version} exported, merged in {result.precision}"
    pairs = [("folder", result.folder), ("logits off by", error), *result.files.items()]
    return CommandResult(result, section(title, key_values(pairs)))


@cli.command(
    "import",
    epilog=examples(
        "finsent import ./adapter",
        "finsent import ./published-peft-adapter --profile llama-3.1-8b --labels Neutral,Bullish,Bearish",
        "finsent import owner/name --revision 0a1b2c3 --profile llama-3.1-8b --labels Neutral,Bullish,Bearish",
    ),
)
@click.argument("adapter")
@click.option("--revision", metavar="REV", help="Branch, tag or commit, for an adapter on the Hub.")
@click.option("--labels", metavar="A,B,C", help="Classes in the order of the head's outputs, for an adapter without manifest.")
@click.option("--no-evaluate", is_flag=True, help="Register only.")
@click.pass_obj
def import_command(
    settings: Settings, adapter: str, *, revision: str | None, labels: str | None, no_evaluate: bool
) -> CommandResult:
    """Register, evaluate and gate an adapter made elsewhere.

    What the gate would decide is shown, and nothing is promoted: `finsent promote` does that. ADAPTER is a folder that
    finsent exported, a published PEFT adapter's folder, or its Hub id (owner/name). A published adapter
    (adapter_config.json and safetensors) brings no manifest: quantisation and text length are taken from the profile, and
    the order of its classes must be given with --labels.
    """
    from finsent.steps.evaluate import evaluate
    from finsent.steps.import_export import ImportEvaluation, dry_run_gate, import_adapter

    order = tuple(part.strip() for part in labels.split(",")) if labels else None
    context = settings.context()
    result = import_adapter(context, adapter, labels=order, revision=revision)
    version = result.model_version
    if no_evaluate:
        found = ImportEvaluation(None, None, f"--no-evaluate was given. Next: finsent evaluate --version {version}")
    else:
        note(f"registered as version {version}; evaluating it")
        found = dry_run_gate(context, version, lambda given, number: evaluate(given, version=number))
    evidence = found.evaluation.evidence if found.evaluation else None
    said = {
        **plain(result),
        "evaluated": found.evaluation is not None,
        "not_evaluated_because": found.not_evaluated_because,
        "metrics": evidence.metrics if evidence else None,
        "gate": {"decision": found.verdict.decision, "reasons": found.verdict.reasons} if found.verdict else None,
    }
    pairs = [("from", result.origin), ("run", result.run_id), ("base", result.base)]
    head = section(f"Registered as version {version}", key_values(pairs))
    return CommandResult(said, stack(head, render_import_evaluation(found, version)))
