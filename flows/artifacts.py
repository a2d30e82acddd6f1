"""What flows show in the Prefect UI: short reports as text, and links to pages of MLflow. The flows publish them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from finsent.errors import escape_control
from finsent.registry.mlflow_errors import public_uri
from finsent.registry.tracking import connect
from finsent.workspace import Workspace

_FAULTS: Final = 50  # shown


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; pipes and line ends in cells are defused, since cells may hold tweets."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape_control(" ".join(str(value).split())).replace("|", "\\|")


def data_report(report: Any, facts: Any = None) -> str:
    """Where every row read ended, how the accepted ones are split, what leaks and, from the data report, what is confounded."""
    sources = (
        (name, n["read"], n["accepted"], n["duplicates"], n["quarantined"], n.get("unlabelled", 0))
        for name, n in report.by_source.items()
    )
    labels = sorted({label for counts in report.splits.values() for label in counts})
    splits = ((name, *(counts.get(label, 0) for label in labels)) for name, counts in report.splits.items())
    return "\n\n".join(
        [
            f"# Data version {report.version}",
            (
                f"{report.read:,} rows read = {report.accepted:,} accepted + {report.duplicates:,} duplicates "
                f"+ {report.quarantined:,} quarantined + {report.unlabelled:,} unlabelled."
            ),
            markdown_table(("source", "read", "accepted", "duplicates", "quarantined", "unlabelled"), sources),
            "## Why rows were quarantined",
            markdown_table(("reason", "rows"), sorted(report.reasons.items())) if report.reasons else "None was.",
            "## Splits",
            markdown_table(("split", *labels), splits),
            (
                f"Pairs of duplicates across splits: **{report.leaks}**. "
                f"A random split would have leaked: {_share(report.naive_leak)} of the test rows."
            ),
            *_audit(facts),
            *_confounding(facts),
            f"Fingerprint `{report.fingerprint}`.",
        ]
    )


def _audit(facts: Any) -> Iterable[str]:
    """The leak audit by pair of splits, where the ingestion recorded it."""
    audit = facts.report.get("audit") if facts is not None else None
    if audit:
        exact, near = audit.get("exact", {}), audit.get("near", {})
        pairs = dict.fromkeys((*exact, *near))
        yield markdown_table(
            ("splits", "equal", "nearly equal"), ((pair, exact.get(pair, 0), near.get(pair, 0)) for pair in pairs)
        )


def _confounding(facts: Any) -> Iterable[str]:
    if facts is not None:
        by_source = facts.confounding.by_source
        labels = list(dict.fromkeys(label for counts in by_source.values() for label in counts))
        yield "## Label and source"
        yield facts.confounding.sentence
        yield markdown_table(("source", *labels), ((name, *counts.values()) for name, counts in by_source.items()))


def metrics_rows(evidence: Any) -> list[dict[str, Any]]:
    """One row per model and score, for a Prefect table."""
    metrics, champion = evidence.metrics, evidence.champion
    baseline, calibrated = (evidence.baselines or {}).get("tfidf"), evidence.calibration
    own = {key: metrics[key] for key in ("accuracy", "macro_f1", "mcc")} if metrics else {}
    own |= {"ece": evidence.ece, "brier": calibrated["brier"] if calibrated else None}
    rows: list[dict[str, Any]] = []
    for score in ("accuracy", "macro_f1", "mcc", "ece", "brier"):
        interval = (evidence.intervals or {}).get(score)
        rows.append(
            {
                "score": score,
                f"version {evidence.model_version}": _round(own.get(score)),
                "95 % interval": f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else None,
                "TF-IDF baseline": _round(baseline.get(score)) if baseline else None,
                f"champion {evidence.champion_version or '(none)'}": _round(champion["metrics"].get(score)) if champion else None,
            }
        )
    return rows


def decision(result: Any, model: str) -> str:
    """The gate's decision, rule by rule, and what happens next."""
    heading = {
        "promoted": f"# Version {result.model_version} of {model} is the champion",
        "pending_approval": f"# Version {result.model_version} of {model} passed and waits for approval",
        "refused": f"# Version {result.model_version} of {model} was refused",
    }[result.decision]
    version = result.model_version
    after = {
        "promoted": f"Before it: version {result.champion_before}, which `finsent rollback` brings back."
        if result.champion_before
        else "It is the first one.",
        "pending_approval": f"`finsent approve {version} --why ...` or `finsent reject {version} --why ...`",
        "refused": f"Version {result.champion_after} stays champion." if result.champion_after else "There is still no champion.",
    }[result.decision]
    order = ("fail", "missing", "pass")  # what stands against it comes first
    by_status = {status: [rule for rule in result.rules if rule.status == status] for status in order}
    rules = ((rule.status, rule.name, rule.reason) for found in by_status.values() for rule in found)
    counts = ", ".join(
        f"{len(by_status[status])} {word}" for status, word in zip(order, ("failed", "missing", "passed"), strict=True)
    )
    reasons = "\n".join(f"- {reason}" for reason in result.reasons)
    counted = [f"Rules: {counts}."] if result.rules else []
    return "\n\n".join([heading, after, reasons, *counted, markdown_table(("status", "rule", "reason"), rules)])


def predictions_report(report: Any) -> str:
    """How many rows were scored by whom, and the class mix."""
    counts: Mapping[str, int] = report.classes
    total = sum(counts.values())
    mix = ((label, n, _share(n / total)) for label, n in counts.items()) if total else ()
    return "\n\n".join(
        [
            f"# {report.scored:,} tweets scored by version {report.model_version}",
            (
                f"{report.received:,} received, {report.skipped:,} already scored or in quarantine, "
                f"{report.quarantined:,} quarantined, {report.abstained:,} abstained; {report.seconds:.1f} s."
            ),
            markdown_table(("class", "rows", "share"), mix),
            *_arrivals(report.sources),
        ]
    )


def not_read_message(report: Any) -> str:
    """What of the inbox's sources is not read, as the message of a run's state."""
    faults = [fault for source in report.sources for fault in source.faults]
    first = faults[0]
    others = f", and {len(faults) - 1:,} more (`finsent status`)" if len(faults) > 1 else ""
    return escape_control(f"{first.uri!r} is {first.state}: {first.reason}{others}")


def _arrivals(sources: Sequence[Any]) -> Iterable[str]:
    """What each source of the inbox gave, and what is not read."""
    if sources:
        headers = ("source", "files read", "known files", "being written", "rows", "received", "known", "quarantined")
        rows = (
            (s.source, s.files, s.files_before, len(s.unsettled), s.read, s.received, s.known, s.quarantined) for s in sources
        )
        yield "## Where they came from"
        yield markdown_table(headers, rows)
    faults = [fault for source in sources for fault in source.faults]
    if faults:
        shown = ((fault.state, fault.uri, f"{fault.since:%Y-%m-%d %H:%M}", fault.reason) for fault in faults[:_FAULTS])
        yield f"## Not read: {len(faults):,}"
        yield "Correct, replace or remove the file, or repair the source; the next run sees to it. Everything else was received."
        yield markdown_table(("", "file or source", "since (UTC)", "why"), shown)


def monitor_report(report: Any) -> str:
    """Drift by feature and the decision it led to."""
    reasons = "\n".join(f"- {reason}" for reason in report.reasons)
    drift = markdown_table(("feature", "PSI"), sorted(report.drift.items()))
    return "\n\n".join([f"# Decision: {report.decision}", reasons, drift, f"Windows looked at: {len(report.windows)}."])


def maintenance_report(done: Any) -> str:
    """What a maintenance removed, merged and vacuumed, and what it could not do."""
    removed = ((item.what, str(item.path), item.bytes) for item in done.removed[:_FAULTS])
    tables = ((item.name, item.merged, item.removed, item.problem or "") for item in done.tables)
    more = [f"And {len(done.removed) - _FAULTS:,} more."] if len(done.removed) > _FAULTS else []
    return "\n\n".join(
        [
            f"# {len(done.removed):,} files and folders removed, {done.bytes:,} bytes freed",
            *([markdown_table(("what", "path", "bytes"), removed), *more] if done.removed else []),
            f"Scored inbox rows removed: {done.inbox_rows:,}.",
            *([markdown_table(("table", "files merged", "files removed", "problem"), tables)] if done.tables else []),
        ]
    )


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def run_page(home: Workspace, run_id: str) -> str | None:
    """URL of a run's page, or None when MLflow is a store without a server."""
    if not home.tracking_uri.startswith("http"):
        return None
    experiment = connect(home).get_run(run_id).info.experiment_id
    return f"{public_uri(home.tracking_uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def version_page(home: Workspace, model: str, version: str) -> str | None:
    """URL of a registered version's page, or None when MLflow is a store without a server."""
    if not home.tracking_uri.startswith("http"):
        return None
    return f"{public_uri(home.tracking_uri).rstrip('/')}/#/models/{model}/versions/{version}"


def how_to_open(home: Workspace) -> str:
    """The command that opens MLflow's pages on a store without a server."""
    return f"mlflow ui --backend-store-uri {public_uri(home.tracking_uri)}"
