"""The scoring step: the champion scores inbox rows that have no prediction yet."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finsent.config import InboxSource
from finsent.labels import LABELS
from finsent.models.abstention import abstain_threshold
from finsent.registry.champion import require_champion
from finsent.registry.client import logged_model_id
from finsent.registry.scoring_identity import scoring_identity
from finsent.registry.tracking import log_params, start_run
from finsent.steps.context import Context

if TYPE_CHECKING:
    from finsent.data.file_answers import AnswerFile
    from finsent.data.inbox import InboxReport
    from finsent.data.inbox_sources import SourceArrivals
    from finsent.data.predictions import ModelIdentity
    from finsent.data.received_rows import ReceivedFile
    from finsent.data.sources.file_counts import FileCounts
    from finsent.data.tables import Position
    from finsent.scoring.chunk_pipeline import Totals
    from finsent.scoring.pending_rows import PendingRows

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreReport:
    """What one scoring run did."""

    received: int
    """Tweets of the files or sources that the inbox did not have."""
    known: int
    """Tweets of them that it had."""
    scored: int
    skipped: int
    """Inbox rows that were scored before, or are in quarantine."""
    quarantined: int
    model_version: str
    run_id: str | None
    """MLflow run; None if nothing was due."""
    classes: dict[str, int]
    """Scored rows by label."""
    abstained: int
    """Scored rows less confident than the version's threshold, or than `scoring.abstain_below` where that is set."""
    abstained_by_class: dict[str, int]
    """Those rows by the label that they would have had."""
    seconds: float
    rows_per_second: float
    sources: "tuple[SourceArrivals, ...]" = ()
    """What each of `scoring.sources` gave; none where files were given."""
    files: "list[FileCounts]" = field(default_factory=list)
    """What became of the rows of each file that was given."""
    left_out: list[str] = field(default_factory=list)
    """Files of folders that were given whose endings are not read."""
    answers: "AnswerFile | None" = None
    """The file of answers to the files that were given, where one was asked for."""

    @property
    def not_read(self) -> int:
        """Files and sources that are set aside or could not be read: an operator has to look."""
        return sum(len(source.faults) for source in self.sources)


def score(
    context: Context,
    *,
    files: Sequence[InboxSource] = (),
    out: Path | None = None,
    devices: Sequence[str] | None = None,
    progress: bool = True,
) -> ScoreReport:
    """Fill the inbox, from `files` or else from `scoring.sources`, then score what has no prediction.

    What is scored is every inbox row without a prediction, with `scoring.backfill` also those that earlier champions scored. In
    `scoring.sources` a damaged file or source costs itself alone, and is in the report; files that are given must be sound.

    Each chunk of predictions is one commit: killed at any moment and run again, the table is as if nothing had
    happened. A run that overlaps with another on this home waits for it, as long as that one commits. While the model is at
    one chunk, the next is tokenised and the one before it is committed.

    Args:
        context: How to score, and where tables and registry are.
        files: Files of tweets to receive first, in place of the configured sources.
        out: New file for the answers to `files`, row for row.
        devices: Devices to score on, a worker with the model on each; left out, all GPUs, at most `engine.devices`. Not with
            `scoring.engine: ray`.
        progress: Show a bar on a terminal.

    Raises:
        NoChampionError: no version was promoted yet; nothing was received either.
        CheckFailed: the alias is not where the audit log's decisions put it; nothing was received either.
        InputError: a file is wrong, or `out` is there already; nothing was received.
        ArtifactError: the champion is not what was registered.
        DeviceError: a worker failed or died; what was committed before stands.
        ConfigError: `scoring.engine` is `ray`, and Ray is not installed or not the cluster's; nothing was scored.
        ServiceError: the Ray cluster does not answer; nothing was scored.
    """
    from finsent.data.file_answers import write_answers

    started = time.perf_counter()
    _require_ready(context, out)
    traced: list[ReceivedFile] | None = None if out is None else []
    given, sources = _receive(context, files, traced)
    incoming: list[InboxReport | SourceArrivals] = [*given, *sources]
    scoring = _score_inbox(context, devices, progress=progress)
    answers = None if out is None else write_answers(context.workspace, traced or (), out, scoring.model)
    seconds, done = time.perf_counter() - started, scoring.totals
    scored = done.classes.total()
    return ScoreReport(
        received=sum(item.received for item in incoming),
        known=sum(item.known for item in incoming),
        scored=scored,
        skipped=scoring.skipped,
        quarantined=scoring.quarantined + sum(item.quarantined for item in incoming),
        model_version=scoring.model.version,
        run_id=scoring.run_id,
        classes={label: done.classes[label] for label in LABELS} if scored else {},
        abstained=done.abstained.total(),
        abstained_by_class=dict(done.abstained),
        seconds=seconds,
        rows_per_second=scored / seconds,
        sources=sources,
        files=[item for report in given for item in report.files],
        left_out=[name for report in given for name in report.left_out],
        answers=answers,
    )


def _require_ready(context: Context, out: Path | None) -> None:
    """Check what scoring needs before anything is received; raises as `score`."""
    from finsent.data.output_file import require_new_output
    from finsent.data.tables import require_writable_tables
    from finsent.scoring.ray_cluster import require_ray

    if out is not None:
        require_new_output(out)
    require_champion(context.registry)
    if context.config.scoring.engine == "ray":
        require_ray(context.config.scoring.ray)
    require_writable_tables(context.workspace, ("inbox", "quarantine", "predictions", "inbox_files"))


def _receive(
    context: Context, files: Sequence[InboxSource], traced: "list[ReceivedFile] | None"
) -> "tuple[list[InboxReport], tuple[SourceArrivals, ...]]":
    """Fill the inbox from the files, or from the configured sources where none are given: what the one gave, or the others."""
    from finsent.data.inbox import receive
    from finsent.data.inbox_sources import receive_sources
    from finsent.data.validation.text_repair import format_flags

    data, home = context.config.data, context.workspace
    if files:
        report = receive(
            files,
            home,
            max_characters=data.max_characters,
            repaired=data.repair_mojibake,
            masked=data.mask_handles,
            traced=traced,
        )
        if report.flags:
            _log.info("%s", format_flags(report.flags))
        return [report], ()
    return [], receive_sources(context.config.scoring, data, home)


class _Scoring(NamedTuple):
    """What became of the inbox; the fields are those of `ScoreReport`."""

    model: "ModelIdentity"
    run_id: str | None
    totals: "Totals"
    skipped: int
    quarantined: int


def _score_inbox(context: Context, devices: Sequence[str] | None, *, progress: bool) -> _Scoring:
    """Let the champion score what is due, after other runs on this home."""
    from finsent.scoring.chunk_pipeline import Totals, look_for_pending
    from finsent.scoring.writer import after_others, record_watermark

    config, home, registry = context.config, context.workspace, context.registry
    with after_others(home, context.require_own_run):
        model = scoring_identity(registry, require_champion(registry))  # which may have changed while this run waited
        before, due = look_for_pending(home, model, config.data.max_characters, config.scoring.backfill)
        if len(due.rows):
            run_id, totals, more_bad = _score_due(context, model, due, before, devices, progress=progress)
            return _Scoring(model, run_id, totals, due.settled, len(due.bad) + more_bad + totals.failed)
        if due.watermark is not None:
            record_watermark(home, due.watermark, before)
    return _Scoring(model, None, Totals(), due.settled, len(due.bad))


def _score_due(
    context: Context,
    model: "ModelIdentity",
    due: "PendingRows",
    before: "Position",
    devices: Sequence[str] | None,
    *,
    progress: bool,
) -> "tuple[str, Totals, int]":
    """Load the model and score until nothing is pending, in an MLflow run.

    Returns the run's id, the totals, and how many rows were quarantined.
    """
    from mlflow.entities import LoggedModelInput

    from finsent.scoring.chunk_pipeline import Totals, commit_chunks, look_for_pending
    from finsent.scoring.predictor import ModelSpec
    from finsent.scoring.workers import open_predictor
    from finsent.scoring.writer import PredictionMetadata, count_distinct_texts

    config, home, registry, scoring = context.config, context.workspace, context.registry, context.config.scoring
    version = model.version
    spec = ModelSpec(registry.adapter_path(version), home, config.engine, count_distinct_texts(due.rows), scoring.token_budget)
    with (
        open_predictor(spec, devices, scoring.ray if scoring.engine == "ray" else None) as predictor,
        start_run(config, home, kind="score", tags={"model_version": version, **context.run_tags}) as run_id,
    ):
        # from the adapter itself, so that a run that continues a killed one uses the same threshold
        threshold = abstain_threshold(predictor.manifest, scoring.abstain_below)
        log_params(registry.client, run_id, {**predictor.engine.params(), "abstain_threshold": f"{threshold:.6g}"})
        started = time.perf_counter()
        metadata, done, bad = PredictionMetadata(model, run_id, threshold), Totals(), 0
        while True:
            part, finished = commit_chunks(home, predictor, due, scoring.chunk_rows, metadata, before, progress=progress)
            done += part
            if finished:
                break
            _log.warning("another run is scoring these tables: looking again at what is due")
            before, due = look_for_pending(home, model, config.data.max_characters, scoring.backfill)
            bad += len(due.bad)
        if done.failed:
            _log.warning(
                "%d tweets have no finite logits: they are in quarantine (`finsent data quarantine --reason 'not finite'`), and "
                "`finsent score --backfill all` gives them to another champion",
                done.failed,
            )
        for key, value in done.metrics(time.perf_counter() - started).items():
            registry.client.log_metric(run_id, key, value)
        registry.client.log_inputs(run_id, models=[LoggedModelInput(logged_model_id(registry.get_version(version)))])
    return run_id, done, bad
