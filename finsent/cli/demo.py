"""`finsent demo`: the whole chain on the bundled sample, through Prefect and MLflow, in one process and one folder."""

import logging
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import Renderable, duration, key_values, note, section, stack, table
from finsent.cli.render import render_evaluation, render_predictions, render_promotion, render_scoring
from finsent.cli.render_data import render_ingestion
from finsent.cli.server_password import guard_temporary_server
from finsent.files import make_folder
from finsent.machine_faults import STARTUP_TIMEOUT
from finsent.workspace import Workspace, resolve_workspace

if TYPE_CHECKING:
    from finsent.data.predictions import ModelIdentity
    from finsent.steps.monitor import MonitorReport
    from finsent.steps.predict import Prediction
    from finsent.steps.score import ScoreReport
    from flows.retrain import RetrainResult

STEPS = ("ingest", "train", "evaluate", "promote", "score", "monitor")
"""Flows whose time is shown."""
SHOWN = 8
"""Scored tweets in the summary."""


@dataclass(frozen=True)
class Demo:
    """The results of one run of the demo."""

    home: Path
    day: int
    """Day of the sample whose tweets arrived: 1 in a fresh home, 2 in every later run."""
    chain: "RetrainResult"
    scoring: "ScoreReport | None"
    """None where the gate refused the first version, so that there is no champion."""
    monitoring: "MonitorReport | None"
    tweets: "tuple[Prediction, ...]"
    """A few predictions with their texts."""
    seconds: dict[str, float]
    """Wall time by step, and `total`."""
    open_mlflow: str
    open_prefect: str


class StepClock(logging.Handler):
    """Reads from Prefect's log when flow runs begin and end; prints and keeps each step's time. Steps run one by one."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seconds: dict[str, float] = {}
        self.last = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one log line of a flow run."""
        message, step = record.getMessage(), str(getattr(record, "flow_name", ""))
        if message.startswith("Beginning"):
            self._lap("Prefect")
        elif step in STEPS and message.startswith("Finished in state"):
            self._lap(step)

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        took, self.last = now - self.last, now
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        if name != "Prefect":
            note(f"  {name.ljust(9)} {duration(took)}")


@cli.command("demo", epilog=examples("finsent demo", "finsent demo --home /tmp/finsent-demo"))
@click.pass_obj
def demo_command(settings: Settings) -> CommandResult:
    """Run the whole chain on the bundled sample, offline.

    It takes a few minutes and keeps everything in .finsent/demo. Every step runs through Prefect and MLflow on SQLite. Run it
    again: new tweets arrive, a challenger is trained and meets the champion on the same rows.
    """
    demo = run_demo(settings)
    return CommandResult(demo, render_demo(demo), code=0 if demo.chain.promotion.champion_after else 1)


def run_demo(settings: Settings) -> Demo:
    """Ingest, train, evaluate, promote, score and monitor on what arrived today."""
    began = time.monotonic()
    settings.config()  # a wrong option fails at once
    home = _prepare(settings)
    from finsent.data import tables
    from finsent.data.sample import inbox_files, sample_sources

    # Prefect reads its environment at import, so not a moment earlier
    from flows.monitor import monitor
    from flows.retrain import RetrainResult, retrain
    from flows.score import score

    day = 1 if tables.version(home, "tweets") is None else 2
    flow_settings = settings.flow_settings_in(home, ("gate.approval=automatic", *settings.overrides))
    note(f"the bundled sample, day {day}, in {home.root}: Prefect starts, then the steps run")
    clock = StepClock()
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(clock)
    try:
        chain = retrain(sample_sources(day), settings=flow_settings)
        if not isinstance(chain, RetrainResult):
            raise TypeError(f"the flow `retrain` returned {type(chain).__name__}")
        champion = chain.promotion.champion_after
        scoring: Any = score(tuple(map(str, inbox_files(day))), flow_settings) if champion else None
        monitoring: Any = monitor(flow_settings) if champion else None
    finally:
        logger.removeHandler(clock)
    return Demo(
        home=home.root,
        day=day,
        chain=chain,
        scoring=scoring,
        monitoring=monitoring,
        tweets=_some_predictions(home, settings.context().registry.identity(champion)) if champion else (),
        seconds={**clock.seconds, "total": time.monotonic() - began},
        open_mlflow=f"{_program('mlflow')} ui --workers 1 --backend-store-uri {home.tracking_uri}",
        open_prefect=f"PREFECT_HOME={home.root / 'prefect'} {_program('prefect')} server start",
    )


def render_demo(demo: Demo) -> Renderable:
    """The one summary."""
    chain, trained = demo.chain, demo.chain.training
    times = [(name, duration(seconds)) for name, seconds in demo.seconds.items()]
    return stack(
        _headline("DATA"),
        render_ingestion(chain.data) if chain.data else "nothing ingested",
        _headline("MODEL"),
        f"Version {trained.model_version}: {trained.rows:,} rows, {trained.steps:,} steps, {duration(trained.seconds)}, "
        f"{trained.rows_per_second:.0f} rows/s"
        if trained
        else f"Version {chain.evaluation.model_version}: trained by a run that was interrupted before its decision",
        render_evaluation(chain.evaluation, suggest_next=False),
        _headline("GATE"),
        render_promotion(chain.promotion),
        _headline("SCORING"),
        *_render_scoring(demo),
        _headline("TIME"),
        table(("step", "time"), times),
        _headline("LOOK AT IT"),
        key_values(
            [
                ("both", f"{_program('finsent')} up --home {_short(demo.home)}"),
                ("MLflow", f"{demo.open_mlflow}   then http://127.0.0.1:5000"),
                ("Prefect", f"{demo.open_prefect}   then http://127.0.0.1:4200"),
            ]
        ),
        _next(demo, met_champion=chain.evaluation.evidence.champion_compared),
    )


def _prepare(settings: Settings) -> Workspace:
    """A home of the demo's own, and an environment in which no other server or state is used."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "FINSENT_TABLES"):
        if os.environ.pop(name, None):
            note(f"{name} is left aside: the demo keeps everything in its own folder")
    root = settings.home_dir or resolve_workspace().root / "demo"
    home = resolve_workspace({"FINSENT_HOME": str(root)})
    make_folder(home.root.parent)
    home.root.mkdir(mode=0o700, exist_ok=True)
    make_folder(home.root / "prefect")  # Prefect makes no parents
    os.environ.update(
        {
            "FINSENT_HOME": str(home.root),
            "PREFECT_HOME": str(home.root / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
            STARTUP_TIMEOUT: "180",
        }
    )
    guard_temporary_server()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return home


def _some_predictions(home: Workspace, model: "ModelIdentity") -> "tuple[Prediction, ...]":
    """Confident predictions of each class and the least confident one, with their texts, of the rows scored last."""
    from finsent.data import tables
    from finsent.data.predictions import predicted_by
    from finsent.steps.predict import Prediction

    columns = ["id", "label", "confidence", "abstained", "p_neutral", "p_bullish", "p_bearish", "scored_at"]
    scored = tables.read(home, "predictions", columns=columns, filters=predicted_by(model))
    scored = scored.sort_by([("scored_at", "descending")]).slice(0, 1000)
    texts = {row["id"]: row["text"] for row in tables.read(home, "inbox", columns=["id", "text"]).to_pylist()}
    rows = sorted(scored.to_pylist(), key=lambda row: (-row["confidence"], row["id"]))
    chosen = []
    for label in ("Bullish", "Bearish", "Neutral"):
        chosen += [row for row in rows if row["label"] == label][:20:10]  # not only the most confident, which look alike
    chosen += rows[-1:]
    return tuple(
        Prediction(
            texts.get(row["id"], ""),
            row["label"],
            row["confidence"],
            row["abstained"],
            {"Neutral": row["p_neutral"], "Bullish": row["p_bullish"], "Bearish": row["p_bearish"]},
        )
        for row in chosen[:SHOWN]
    )


def _render_scoring(demo: Demo) -> list[Renderable]:
    if demo.scoring is None or demo.monitoring is None:
        return ["Nothing is scored: no version has been promoted."]
    monitoring = f"Monitoring says: {demo.monitoring.decision}. {' '.join(demo.monitoring.reasons)}"
    return [render_scoring(demo.scoring, f"{demo.home}/tables"), render_predictions(demo.tweets), monitoring]


def _headline(text: str) -> Renderable:
    return section(f"{text} {'-' * (78 - len(text))}")


def _next(demo: Demo, *, met_champion: bool) -> str:
    if demo.day == 1:
        return (
            "The sample is this project's own writing: scores on it say nothing about real tweets. The demo promotes by itself;\n"
            "your own `finsent promote` leaves a version that passes waiting for `finsent approve`.\n"
            "Run `finsent demo` again: new tweets arrive, and a challenger meets this champion on the same rows."
        )
    if not met_champion:
        return ""
    if demo.chain.promotion.decision == "promoted":
        said = "The challenger beat the champion on the same rows and took its place."
    else:
        said = "The challenger met the champion on the same rows and did not pass every rule of the gate: the champion stays."
    return f"{said} Either can happen: the next demo trains on what has arrived since."


def _program(name: str) -> str:
    """How to call a program of this environment from the working folder."""
    beside = Path(sys.executable).parent / name
    on_path = shutil.which(name)
    if on_path and Path(on_path).resolve() == beside.resolve():
        return name
    return _short(beside)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
