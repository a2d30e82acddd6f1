"""`finsent score`, `predict`, `serve`, `monitor` and `retrain`: the recurring work with the champion."""

import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from finsent.cli.options import LOCAL_PATH, CommandResult, Settings, cli, examples
from finsent.cli.output import lines, plain, section, stack
from finsent.cli.promote import report_line, use_prefect_server
from finsent.cli.render import (
    render_evaluation,
    render_monitoring,
    render_predictions,
    render_promotion,
    render_scoring,
    render_training,
)
from finsent.cli.render_data import render_ingestion
from finsent.cli.server_password import guard_temporary_server
from finsent.cli.services_file import HEARTBEAT_SECONDS
from finsent.cli.source_options import file_options, given_options, source_settings
from finsent.config import InboxSource
from finsent.errors import InputError
from finsent.machine_faults import STARTUP_TIMEOUT


@cli.command(
    "score",
    epilog=examples(
        "finsent score",
        "finsent score new-tweets.csv.gz",
        "finsent score stream.jsonl --text body",
        "finsent score day.csv --id tweet_id --out answers.csv",
        "finsent score --backfill 30d",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--backfill", metavar="30d|all|none", help="Score again what earlier champions scored: of the last days, or all.")
@click.option(
    "--out", type=LOCAL_PATH, metavar="FILE", help="Write the answers to the files' rows to a new .parquet, .csv or .jsonl."
)
@file_options
@click.pass_obj
def score_command(
    settings: Settings, /, files: tuple[str, ...], backfill: str | None, out: Path | None, **given: Any
) -> CommandResult:
    """Let the champion score the inbox.

    Rows without a prediction are scored, so a second run scores nothing. What earlier champions scored is scored again with
    --backfill alone (or scoring.backfill); their predictions stay. Files given are put into the inbox first; without any,
    what is new in the configured `scoring.sources`. With --out each row of the files has one answer, in their order: the
    tweet's current prediction, whenever it was made, or the reason why it has none.
    """
    from finsent.data.sources.file_counts import next_to_nothing
    from finsent.steps.score import score

    if not files and (options := given_options(given)):
        raise InputError(
            f"{options[0]} needs a FILE: sources of the configuration (scoring.sources) name their columns themselves."
        )
    if out is not None and not files:
        raise InputError(
            "--out writes the answers to files, and none is given. `finsent predictions --out FILE` writes what is stored."
        )
    if backfill is not None:
        settings = replace(settings, overrides=(*settings.overrides, f"scoring.backfill={backfill}"))
    context = settings.context()
    report = score(context, files=tuple(InboxSource(uri=file, **source_settings(given)) for file in files), out=out)
    code = 2 if next_to_nothing(report.files) else 0
    return CommandResult(report, render_scoring(report, context.workspace.tables_url), code=code)


@cli.command(
    "predict",
    epilog=examples(
        "finsent predict '$AAPL to the moon! 🚀 Great earnings, buying more calls!'",
        "finsent predict --version 3 'guidance cut, $XYZ down 8%'",
        "head tweets.txt | finsent predict -",
    ),
)
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option("--version", metavar="N", help="Registered version. Default: the champion.")
@click.pass_obj
def predict_command(settings: Settings, texts: tuple[str, ...], version: str | None) -> CommandResult:
    """Label a few texts; stores nothing. `-` reads texts from standard input, one a line.

    Each line has one answer. A text that scoring would quarantine, such as an empty one, gets no label and the reason.
    """
    from finsent.steps.predict import predict

    if "-" in texts:
        if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no UTF-8 make their own line a bad row, not an end
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline="\n")
        # one answer to each line, an empty one too, so that answers and lines can be put side by side
        piped = tuple(line.removesuffix("\n").removesuffix("\r") for line in sys.stdin or ())
        texts = tuple(text for given in texts for text in (piped if given == "-" else (given,)))
    if not any(text.strip() for text in texts):
        raise InputError("nothing to predict: every text is empty. Give a tweet in quotes, or `-` with lines on standard input.")
    result = predict(settings.context(), texts, version=version)
    head = f"Version {result.model_version} of {result.model_name}"
    return CommandResult(result, section(head, render_predictions(result.predictions)))


@cli.command(
    "serve", epilog=examples("finsent serve", "finsent serve --port 8080", "finsent serve --version 3 --host 0.0.0.0 --port 8080")
)
@click.option("--version", metavar="N", help="Registered version. Default: the champion.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5001, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
@click.pass_obj
def serve_command(settings: Settings, version: str | None, host: str, port: int) -> NoReturn:
    """Answer over HTTP with one version, until Ctrl-C.

    Runs `mlflow models serve` on the version that the audit log says is champion, and on its number: who moves the alias
    `champion` in MLflow afterwards does not change what answers.
    """
    from finsent.registry.champion import require_champion
    from finsent.registry.client import CHAMPION

    registry = settings.context().registry
    chosen = registry.resolve(version) if version and version != CHAMPION else require_champion(registry)
    registry.adapter_path(chosen)  # its artifact is the one that was registered
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{registry.name}/{chosen}"]
    command += ["--env-manager", "local", "--host", host, "--port", str(port)]
    # MLflow starts its web server by name, from the search path
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registry.workspace.tracking_uri, "PATH": path}
    click.echo(f"Version {chosen} of {registry.name} at http://{host}:{port}/invocations, until Ctrl-C.", err=True)
    sys.stderr.flush()
    # signals reach the server itself, and its exit code is this command's
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is wanted


@cli.command("monitor", epilog=examples("finsent monitor", "finsent monitor --set monitor.psi_threshold=0.1"))
@click.pass_obj
def monitor_command(settings: Settings) -> CommandResult:
    """Look for drift, say whether to retrain. The latest scoring batches are compared with earlier ones."""
    from finsent.steps.monitor import monitor

    report = monitor(settings.context())
    return CommandResult(report, render_monitoring(report))


@cli.command("retrain", epilog=examples("finsent retrain", "finsent retrain --config mine.yaml --only-if-due"))
@click.option("--only-if-due", is_flag=True, help="Stop after ingestion when there is nothing new, or it is too soon.")
@click.pass_obj
def retrain_command(settings: Settings, *, only_if_due: bool) -> CommandResult:
    """Ingest, train, evaluate and promote in one go.

    Ingests the configured sources; without any the existing data is used. Exit code 1 when the gate refuses.
    """
    # Prefect reads its environment at import, so not a moment earlier
    if not use_prefect_server(settings.home(), "this retraining runs without it, and its events start nothing"):
        guard_temporary_server()
        os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "true"
        os.environ.setdefault(STARTUP_TIMEOUT, "180")
    os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(HEARTBEAT_SECONDS)  # Prefect's 180 s look like a lost run
    from finsent.steps.data_report import page_path
    from flows.retrain import RetrainResult, retrain

    found: Any = retrain(only_if_due=only_if_due, settings=settings.flow_settings())
    if not isinstance(found, RetrainResult):
        shown = stack(render_ingestion(found.data) if found.data else "", "Not due: " + " ".join(found.reasons))
        return CommandResult({"data": found.data, "decision": "skip", "reasons": found.reasons}, shown)
    data, training, evaluation, promotion = found.data, found.training, found.evaluation, found.promotion
    result = {"data": data, "training": training, "evaluation": evaluation, **plain(promotion)}
    context = settings.context()
    page = page_path(context.workspace, data.version) if data and data.version is not None else None
    ingested = (render_ingestion(data), f"Data report: {page}" if page and page.exists() else "") if data else ()
    trained = render_training(training) if training else ""
    decided = lines(render_promotion(promotion), report_line(context, promotion.model_version))
    return CommandResult(
        result,
        stack(*ingested, trained, render_evaluation(evaluation), decided),
        code=1 if promotion.decision == "refused" else 0,
    )
