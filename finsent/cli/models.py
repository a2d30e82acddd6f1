"""From data to a champion, and out of and into the registry: train, evaluate, promote, approve, predict, export, import."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent.cli import promote, render
from finsent.cli.options import CommandResult, Settings, suggest_command, command, examples, login
from finsent.cli.output import key_values, plain, section
from finsent.config import Config, Source
from finsent.data.splits import SPLITS, SplitName
from finsent.errors import InputError
from finsent.training.distributed import launched

if TYPE_CHECKING:
    from finsent.home import Home
    from finsent.pipeline.merged import Precision
    from finsent.pipeline.promote import PromotionResult

VERSION = click.option("--version", metavar="N", help="Registered version. Default: the newest.")
WHO = click.option("--who", metavar="NAME", help="Who decides; goes into the ledger. Default: your login name.")
PRECISIONS: tuple["Precision", ...] = ("bfloat16", "float16", "float32")
WHY = click.option("--why", metavar="TEXT", required=True, help="Why; goes into the ledger.")


def register(group: click.Group) -> None:
    """Add the commands in the order of the work."""
    _register_training(group)
    _register_decisions(group)
    _register_use(group)


def _register_training(group: click.Group) -> None:
    command(
        group,
        "train",
        "Train an adapter and register it as a version.",
        epilog=examples(
            "finsent train",
            "finsent train --profile llama-3.1-8b",
            "finsent train --set recipe.epochs=1 --set recipe.seed=7",
            "finsent train --resume 0a1b2c3d",
            "torchrun --nproc-per-node 4 -m finsent train --profile llama-3.1-8b-fast",
        ),
        options=(click.option("--resume", metavar="RUN", help="MLflow run of an interrupted training to take up again."),),
    )(_train)
    command(
        group,
        "evaluate",
        "Score a version on the held-out test split.",
        epilog=examples(
            "finsent evaluate",
            "finsent evaluate 3",
            "finsent evaluate champion --data desk.csv --label sentiment",
            "finsent evaluate 3 --data-version 12 --split validation",
        ),
        options=(
            click.argument("model", required=False, metavar="[MODEL]"),
            click.option("--version", metavar="N", help="The same as MODEL. Default: the newest version."),
            click.option("--data", metavar="FILE", help="Labelled file to score instead of the held-out test split."),
            click.option("--text", default="text", show_default=True, metavar="COLUMN", help="With --data: column of the tweet."),
            click.option(
                "--label", default="label", show_default=True, metavar="COLUMN", help="With --data: column of the label."
            ),
            click.option("--label-map", metavar="MAP", help="With --data: what its labels mean, e.g. 0=Bearish,1=Bullish."),
            click.option("--data-version", type=int, metavar="N", help="Version of the table to score instead of the newest."),
            click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True, help="Rows of the table."),
        ),
    )(_evaluate)


def _register_decisions(group: click.Group) -> None:
    command(
        group,
        "promote",
        "Let the gate decide on a version's evidence.",
        epilog=examples("finsent promote", "finsent promote --version 3"),
        options=(VERSION,),
    )(_promote)
    version = click.argument("version", required=False)
    command(
        group,
        "approve",
        "Make the version that waits the champion.",
        epilog=examples("finsent approve --why 'errors looked at'", "finsent approve 3 --who ada --why 'errors looked at'"),
        options=(version, WHO, WHY),
    )(_approve)
    command(
        group,
        "reject",
        "Turn the version that waits down.",
        epilog=examples("finsent reject 3 --why 'misreads negations'"),
        options=(version, WHO, WHY),
    )(_reject)
    command(
        group,
        "rollback",
        "Bring the previous champion back at once.",
        epilog=examples("finsent rollback --why 'complaints since noon'"),
        options=(WHO, WHY),
    )(_rollback)


def _register_use(group: click.Group) -> None:
    command(
        group,
        "predict",
        "Label a few texts; stores nothing.",
        epilog=examples(
            "finsent predict '$AAPL to the moon! 🚀 Great earnings, buying more calls!'",
            "finsent predict --version 3 'guidance cut, $XYZ down 8%'",
            "head tweets.txt | finsent predict -",
        ),
        options=(
            click.argument("texts", nargs=-1, required=True, metavar="TEXT..."),
            click.option("--version", metavar="N", help="Registered version. Default: the champion."),
        ),
    )(_predict)
    command(
        group,
        "export",
        "Copy a version to a folder: its adapter, or merged.",
        epilog=examples(
            "finsent export ./adapter",
            "finsent export ./adapter --version 3",
            "finsent export ./model --merged",
            "finsent export ./model --merged --precision float16",
        ),
        options=(
            click.argument("folder", type=Path),
            click.option("--version", metavar="N", help="Registered version. Default: the champion."),
            click.option("--merged", is_flag=True, help="The whole model, the adapter merged in, for model servers."),
            click.option(
                "--precision", type=click.Choice(PRECISIONS), help="With --merged: type of its weights. Default: bfloat16."
            ),
        ),
    )(_export)
    command(
        group,
        "import",
        "Register, evaluate and gate an adapter made elsewhere.",
        epilog=examples(
            "finsent import ./adapter",
            "finsent import ./published-peft-adapter --profile llama-3.1-8b --labels Neutral,Bullish,Bearish",
            "finsent import owner/name --revision 0a1b2c3 --profile llama-3.1-8b --labels Neutral,Bullish,Bearish",
        ),
        options=(
            click.argument("adapter"),
            click.option("--revision", metavar="REV", help="Branch, tag or commit, for an adapter on the Hub."),
            click.option(
                "--labels", metavar="A,B,C", help="Classes in the order of the head's outputs, for an adapter without manifest."
            ),
            click.option("--no-evaluate", is_flag=True, help="Register only."),
        ),
    )(_import)


def _train(settings: Settings, *, resume: str | None) -> CommandResult:
    """Train LoRA adapters (QLoRA) on the training split, log to MLflow, register the result as a version.

    Nothing is promoted: a version scores tweets only once the gate has let it through. An interrupted training of the
    same settings and data is taken up from its checkpoint by itself. On several GPUs: `torchrun --nproc-per-node N -m
    finsent train`.
    """
    from finsent.pipeline.train import take_part, train

    config, home = settings.config(), settings.home()
    if not launched().is_main:
        take_part(config, home)
        return CommandResult(None, "", silent=True)
    result = train(config, home, resume=resume)
    return CommandResult(result, render.render_training(result))


def _evaluate(
    settings: Settings,
    *,
    model: str | None,
    version: str | None,
    data: str | None,
    text: str,
    label: str,
    label_map: str | None,
    data_version: int | None,
    split: SplitName,
) -> CommandResult:
    """Score a version from a fresh load on the held-out test split, beside floors and champion on the same rows.

    MODEL is a version's number or an alias (champion, challenger, previous). The evidence goes to MLflow with a report and
    a model card, and the gate finds it there. With --data any labelled file is scored instead, with --data-version or
    --split other rows of the table, for the record only: such figures are no evidence. Whatever holds test rows counts
    as a look at them.
    """
    from finsent.cli.data import label_map as parse_labels
    from finsent.pipeline.evaluate import evaluate
    from finsent.registry.versions import resolve

    if model is not None and version is not None:
        raise InputError(f"MODEL {model!r} and --version {version!r} name a version twice. Give one of them.")
    if data is not None and (data_version is not None or split != "test"):
        raise InputError(
            f"--data {data!r} is a file, and --data-version and --split choose rows of the table. Give one or other."
        )
    config, home = settings.config(), settings.home()
    given = model or version
    wanted = resolve(home, config.registered_model, given) if given else None
    source = Source(uri=data, text=text, label=label, labels=parse_labels(label_map)) if data else None
    result = evaluate(config, home, version=wanted, data=source, data_version=data_version, split=split)
    metrics: dict[str, Any] = dict(result.evidence.metrics or {})
    found = {
        "accuracy": metrics.get("accuracy"),
        "macro_f1": metrics.get("macro_f1"),
        "per_class": metrics.get("per_class"),
        "n": metrics.get("n"),
        "intervals": result.evidence.intervals,
    }
    text = render.render_evaluation(result)
    if result.data is None:
        text += _report_line(config, home, result.model_version)
    return CommandResult({**found, **plain(result)}, text)


def _report_line(config: Config, home: "Home", version: str) -> str:
    """Where to read on; the model card lies beside it."""
    from finsent.pipeline.exhibit import report_place

    place = report_place(home, config.registered_model, version)
    return f"\nReport: {place}" if place else ""


def _promote(settings: Settings, *, version: str | None) -> CommandResult:
    """Let the gate decide on a version's evidence: promoted, waiting for approval, or refused (exit code 1).

    Every decision, refusals too, goes into the ledger. Missing evidence refuses.
    """
    from finsent.pipeline.promote import promote

    config, home = settings.config(), settings.home()
    return _decided(settings, config, promote(config, home, version=version))


def _decided(settings: Settings, config: Config, result: "PromotionResult") -> CommandResult:
    if result.decision == "promoted" and result.champion_before != result.model_version:
        promote.notify_promotion(settings, config.registered_model, result.model_version, result.champion_before)
    elif result.decision == "pending_approval":
        promote.notify_approval_request(settings, config.registered_model, result.model_version, result.champion_before, result.reasons)
    text = render.render_promotion(result) + _report_line(config, settings.home(), result.model_version)
    return CommandResult(result, text, code=1 if result.decision == "refused" else 0)


def _approve(settings: Settings, *, version: str | None, who: str | None, why: str) -> CommandResult:
    """Let the version that passed the gate and waits take over as champion.

    The gate decides once more: if the champion changed meanwhile, the evidence is void and the approval is refused.
    """
    from finsent.pipeline.approval import approve

    config, home = settings.config(), settings.home()
    return _decided(settings, config, approve(config, home, version, who or login(), why))


def _reject(settings: Settings, *, version: str | None, who: str | None, why: str) -> CommandResult:
    """Turn down the version that passed the gate and waits."""
    from finsent.pipeline.approval import reject

    result = reject(settings.config(), settings.home(), version, who or login(), why)
    return CommandResult(result, f"Version {result.model_version} rejected: {why}")


def _rollback(settings: Settings, *, who: str | None, why: str) -> CommandResult:
    """Bring the previous champion back at once."""
    from finsent.pipeline.promote import rollback

    config, home = settings.config(), settings.home()
    result = rollback(config, home, who or login(), why)
    outcome = _decided(settings, config, result)
    if result.decision == "refused":
        return outcome
    text = (
        f"ROLLED BACK: version {result.model_version} is the champion again, version {result.champion_before} is archived\n\n"
        f"Next: {suggest_command('finsent score')}\n  What version {result.champion_before} had scored waits again."
    )
    return replace(outcome, text=text)


def _predict(settings: Settings, texts: tuple[str, ...], *, version: str | None) -> CommandResult:
    """Label a few texts with the champion; stores nothing. `-` reads texts from standard input, one a line."""
    from finsent.pipeline.predict import predict

    if "-" in texts:
        lines = tuple(line.strip() for line in sys.stdin if line.strip())
        texts = tuple(text for given in texts for text in (lines if given == "-" else (given,)))
    if not all(text.strip() for text in texts) or not texts:
        raise InputError("nothing to predict: a text is empty. Give the tweet in quotes, or `-` with lines on standard input.")
    result = predict(settings.config(), settings.home(), texts, version=version)
    head = f"Version {result.model_version} of {result.model_name}"
    return CommandResult(result, section(head, render.render_predictions(plain(result.predictions))))


def _export(settings: Settings, folder: Path, *, version: str | None, merged: bool, precision: "Precision | None") -> CommandResult:
    """Copy a version's adapter, verified and with its model card, to a folder that PEFT loads as it is.

    With --merged the whole model is written, its adapter merged into the dequantised base, as an ordinary checkpoint that
    transformers and model servers load without PEFT; it is loaded again and held against the live adapter.
    """
    if merged:
        return _export_merged(settings, folder, version, precision or PRECISIONS[0])
    if precision is not None:
        raise InputError(f"--precision {precision!r} is for --merged: an adapter keeps the type that it was trained in.")
    from finsent.pipeline.exchange import export_adapter

    result = export_adapter(settings.config(), settings.home(), folder, version=version)
    return CommandResult(
        result,
        section(
            f"Version {result.model_version} exported",
            key_values([("folder", result.folder), ("base", result.base or "its Hub id, in the card"), *result.files.items()]),
        ),
    )


def _export_merged(settings: Settings, folder: Path, version: str | None, precision: "Precision") -> CommandResult:
    from finsent.pipeline.merged import export_merged

    result = export_merged(settings.config(), settings.home(), folder, version=version, precision=precision)
    near = f"{result.logit_error:.2g} standard deviations, {result.label_agreement:.0%} of labels equal"
    return CommandResult(
        result,
        section(
            f"Version {result.model_version} exported, merged in {result.precision}",
            key_values([("folder", result.folder), ("logits off by", near), *result.files.items()]),
        ),
    )


def _import(settings: Settings, adapter: str, *, revision: str | None, labels: str | None, no_evaluate: bool) -> CommandResult:
    """Register an adapter made elsewhere, evaluate it and show what the gate makes of it.

    ADAPTER is a folder that finsent exported, a published PEFT adapter's folder, or its Hub id (owner/name). A published
    adapter (adapter_config.json and safetensors) brings no manifest: quantisation and text length are taken from the
    profile, and the order of its classes must be stated, since nothing in it says so. Nothing is promoted: that is
    `finsent promote`'s.
    """
    from finsent.pipeline.appraise import Appraisal, appraise
    from finsent.pipeline.exchange import import_adapter

    order = tuple(part.strip() for part in labels.split(",")) if labels else None
    config, home = settings.config(), settings.home()
    result = import_adapter(config, home, adapter, labels=order, revision=revision)
    version = result.model_version
    if no_evaluate:
        found = Appraisal(None, None, f"--no-evaluate was given. Next: finsent evaluate --version {version}")
    else:
        click.echo(f"registered as version {version}; evaluating it", err=True)
        found = appraise(config, home, version)
    evidence = found.evaluation.evidence if found.evaluation else None
    said = {
        **plain(result),
        "evaluated": found.evaluation is not None,
        "not_evaluated_because": found.not_evaluated_because,
        "metrics": evidence.metrics if evidence else None,
        "gate": {"decision": found.verdict.decision, "reasons": found.verdict.reasons} if found.verdict else None,
    }
    head = section(
        f"Registered as version {version}", key_values([("from", result.origin), ("run", result.run_id), ("base", result.base)])
    )
    return CommandResult(said, f"{head}\n\n{render.render_appraisal(found, version)}")
