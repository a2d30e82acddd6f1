"""Running it: demo, up, doctor, status; score, monitor, retrain."""

from pathlib import Path

import click

from finsent.cli import render
from finsent.cli.options import CommandResult, Settings, command, examples
from finsent.cli.output import plain


def register_demo_and_up(group: click.Group) -> None:
    """Add what a newcomer wants first."""
    command(
        group,
        "demo",
        "The whole chain on the bundled sample, offline.",
        epilog=examples("finsent demo", "finsent demo --home /tmp/finsent-demo"),
    )(_demo)
    command(
        group,
        "up",
        "Start MLflow, Prefect, workers and schedules.",
        epilog=examples("finsent up", "finsent up --profile llama-3.1-8b --config mine.yaml", "finsent up --mlflow-port 5001"),
        options=(
            click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on."),
            click.option("--mlflow-port", type=int, default=5000, show_default=True, metavar="PORT"),
            click.option("--prefect-port", type=int, default=4200, show_default=True, metavar="PORT"),
            click.option(
                "--project", type=Path, metavar="DIR", help="Folder that holds prefect.yaml. Default: here, or finsent's clone."
            ),
        ),
    )(_up)
    command(
        group,
        "doctor",
        "Check that this machine can do the work.",
        epilog=examples("finsent doctor", "finsent doctor --profile llama-3.1-8b --json"),
    )(_doctor)
    command(
        group,
        "status",
        "What there is: data, versions, decisions, inbox.",
        epilog=examples("finsent status", "finsent status --json"),
    )(_status)


def register(group: click.Group) -> None:
    """Add the recurring work."""
    command(
        group,
        "score",
        "Let the champion score the inbox.",
        epilog=examples("finsent score", "finsent score new-tweets.csv.gz", "finsent score stream.jsonl --text body"),
        options=(
            click.argument("files", nargs=-1, metavar="[FILE]..."),
            click.option(
                "--text", default="text", show_default=True, metavar="COLUMN", help="Column of the files that holds the tweet."
            ),
        ),
    )(_score)
    command(
        group,
        "monitor",
        "Look for drift, say whether to retrain.",
        epilog=examples("finsent monitor", "finsent monitor --set monitor.psi_threshold=0.1"),
    )(_monitor)
    command(
        group,
        "retrain",
        "Ingest, train, evaluate and promote in one go.",
        epilog=examples("finsent retrain", "finsent retrain --config mine.yaml --only-if-due"),
        options=(click.option("--only-if-due", is_flag=True, help="Stop after reading when nothing is new, or too soon."),),
    )(_retrain)


def _demo(settings: Settings) -> CommandResult:
    """Run the whole chain on the bundled sample: offline, in a few minutes, everything kept in .finsent/demo.

    Every step runs through Prefect and MLflow on SQLite. Run it again: new tweets arrive, a challenger is trained and
    meets the champion on the same rows.
    """
    from finsent.cli.demo import run_demo, tell

    result = run_demo(settings)
    return CommandResult(result, tell(result), code=0 if result.chain.promotion.champion_after else 1)


def _up(settings: Settings, *, host: str, mlflow_port: int, prefect_port: int, project: Path | None) -> CommandResult:
    """Start MLflow, Prefect and its workers, deploy the flows with their schedules. Ctrl-C stops everything.

    While it runs, other finsent commands on the same home use these servers by themselves.
    """
    from finsent.cli import up

    return up.run(settings, up.UpOptions(host, mlflow_port, prefect_port, up.find_project(project)))


def _doctor(settings: Settings) -> CommandResult:
    """Check that this machine can do the work: packages, memory, disk, GPU, servers, base model. Exit code 1 on a failure."""
    from finsent.cli.doctor import examine, tell

    checks = examine(settings)
    failed = any(check.state == "fail" for check in checks)
    return CommandResult({"ok": not failed, "checks": checks}, tell(checks), code=1 if failed else 0)


def _status(settings: Settings) -> CommandResult:
    """Show what there is: data, versions and who is champion, the last decisions, the inbox, the servers."""
    from finsent.cli.status import gather_status, tell

    status = gather_status(settings)
    return CommandResult(status, tell(status))


def _score(settings: Settings, files: tuple[str, ...], text: str) -> CommandResult:
    """Let the champion score what the inbox holds and has no prediction yet. A second run scores nothing.

    Files given are put into the inbox first.
    """
    from finsent.pipeline.score import score

    report = score(settings.config(), settings.home(), files=tuple(Path(file) for file in files), text=text)
    return CommandResult(report, render.render_scoring(report))


def _monitor(settings: Settings) -> CommandResult:
    """Look for drift in the latest scoring batches and say whether to retrain."""
    from finsent.pipeline.monitor import monitor

    report = monitor(settings.config(), settings.home())
    return CommandResult(report, render.render_monitoring(report))


def _retrain(settings: Settings, *, only_if_due: bool) -> CommandResult:
    """Ingest the configured sources, train, evaluate, and let the gate decide, in one go.

    Exit code 1 when the gate refuses. Without configured sources the data that is there is trained on.
    """
    from finsent.pipeline.evaluate import evaluate
    from finsent.pipeline.ingest import ingest
    from finsent.pipeline.promote import promote
    from finsent.pipeline.retrain import retrain_decision
    from finsent.pipeline.train import train

    config, home = settings.config(), settings.home()
    data = ingest(config, home) if config.data.sources else None
    due = retrain_decision(config, home, scheduled=True) if only_if_due else None
    if due and due.decision == "skip":
        return CommandResult({"data": data, **plain(due)}, "Not due: " + " ".join(due.reasons))
    training = train(config, home)
    evaluation = evaluate(config, home, version=training.model_version)
    promotion = promote(config, home, version=training.model_version)
    if promotion.decision == "promoted":
        promote.promotion(settings, config.registered_model, promotion.model_version, promotion.champion_before)
    found = {"data": data, "training": training, "evaluation": evaluation, **plain(promotion)}
    parts = [render.render_ingestion(data)] if data else []
    parts += [render.render_training(training), render.render_evaluation(evaluation), render.render_promotion(promotion)]
    return CommandResult(found, "\n\n".join(parts), code=1 if promotion.decision == "refused" else 0)
