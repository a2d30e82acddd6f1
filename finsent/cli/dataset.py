"""`finsent data`: what the data holds, how versions differ, what was quarantined and why."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.options import CommandResult, Settings, command, examples
from finsent.cli.output import cell_text, key_values, section, shorten, table
from finsent.labels import LABELS

if TYPE_CHECKING:
    from finsent.data.diff import Difference
    from finsent.data.inspection import QuarantineView

_LEAKED = 1
_MOVED = 1  # exit code: rows in another split than before are what no version may have


def register(group: click.Group) -> None:
    """Add `data` with `versions`, `report`, `diff`, `audit` and `quarantine`."""

    @group.group(
        "data",
        short_help="Look at the data: versions, report, quarantine.",
        epilog=examples("finsent data versions", "finsent data report", "finsent data diff 1 2", "finsent data quarantine"),
    )
    def data() -> None:
        """Look at what ingestion has left; nothing of it is changed."""

    command(
        data,
        "versions",
        "Every version of the data.",
        epilog=examples("finsent data versions", "finsent data versions --json"),
    )(_versions)
    command(
        data,
        "report",
        "A version as a page, and in MLflow.",
        epilog=examples("finsent data report", "finsent data report --version 3 --no-mlflow"),
        options=(
            click.option("--version", type=int, metavar="N", help="Version of the data. Default: the latest."),
            click.option("--no-mlflow", is_flag=True, help="Write the page alone, log nothing to MLflow."),
        ),
    )(_report)
    command(
        data,
        "diff",
        "What changed between two versions.",
        epilog=examples("finsent data diff 1 2", "finsent data diff 1 2 --json"),
        options=(click.argument("before", type=int, metavar="V1"), click.argument("after", type=int, metavar="V2")),
    )(_diff)
    command(
        data,
        "audit",
        "Look for leaks across splits again, from the texts alone.",
        epilog=examples("finsent data audit", "finsent data audit --version 3 --json"),
        options=(click.option("--version", type=int, metavar="N", help="Version of the data. Default: the latest."),),
    )(_audit)
    command(
        data,
        "quarantine",
        "Rows that were not taken when they were read, and why.",
        epilog=examples("finsent data quarantine", "finsent data quarantine --reason 'contradictory label' --limit 100 --json"),
        options=(
            click.option("--reason", metavar="REASON", help="Only rows with this reason."),
            click.option("--source", metavar="NAME", help="Only rows of this source, by its name in the quarantine."),
            click.option(
                "--limit", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="Rows shown, at most."
            ),
        ),
    )(_quarantine)


def _versions(settings: Settings) -> CommandResult:
    """List every version of the data that an ingestion or a review made, the newest first."""
    from finsent.data.inspection import list_versions

    found = list_versions(settings.home())
    rows = [
        (item.version, f"{item.at:%Y-%m-%d %H:%M:%S}", item.rows, item.leaks, item.fingerprint, shorten(", ".join(item.inputs)))
        for item in found
    ]
    heads = ("version", "at (UTC)", "rows", "leaks", "fingerprint", "read from")
    text = section("Versions of the data", table(heads, rows)) if rows else "There is no data yet. Run `finsent ingest FILE...`."
    return CommandResult({"versions": found}, text)


def _report(settings: Settings, *, version: int | None, no_mlflow: bool) -> CommandResult:
    """Write the data report as one HTML page into the home, log it to MLflow, and print where it is.

    It shows where every row ended, leaks, how label and source are confounded, what changed, what was quarantined.
    """
    from finsent.pipeline.data_report import describe, report_data

    done = report_data(settings.config(), settings.home(), version, to_mlflow=not no_mlflow)
    result = {"version": done.version, "path": done.path, "run_id": done.run_id, "report": describe(done.facts)}
    return CommandResult(result, str(done.path))


def _audit(settings: Settings, version: int | None) -> CommandResult:
    """Compare every text with every text on another side of a split, with nothing taken from an index or a record.

    Exit code 1 if a pair of exact or near duplicates is found: then do not train on this version.
    """
    from finsent.pipeline.audit import audit_data

    audit = audit_data(settings.config(), settings.home(), version)
    pairs = [(name, audit.exact[name], audit.near[name]) for name in audit.exact]
    text = section(
        f"Data version {audit.version}: {audit.leaks} duplicate pairs across splits among {audit.rows:,} rows",
        table(("between", "exact", "near"), pairs),
    )
    return CommandResult(audit, text, code=_LEAKED if audit.leaks else 0)


def _diff(settings: Settings, before: int, after: int) -> CommandResult:
    """Compare two versions of the data: rows added, removed, relabelled, and moved between splits.

    Ends with exit code 1 if a row moved between splits: a test row that trained later makes every score worthless.
    """
    from finsent.data.diff import difference

    found = difference(settings.home(), before, after)
    return CommandResult(found, _tell_difference(found), _MOVED if found.moved else 0)


def _tell_difference(found: "Difference") -> str:
    heading = f"Version {found.before} ({found.rows_before:,} rows) to version {found.after} ({found.rows_after:,} rows)"
    counts = [
        ("added", found.n_added),
        ("removed", found.n_removed),
        ("relabelled", sum(found.relabelled.values())),
        ("moved between splits", sum(found.moved.values())),
    ]
    parts = [section(heading, key_values(counts))]
    parts += [_by_source(kind, counted) for kind, counted in (("Added", found.added), ("Removed", found.removed)) if counted]
    for kind, changes in (("Relabelled", found.relabelled), ("MOVED BETWEEN SPLITS, which must never be", found.moved)):
        if changes:
            parts.append(section(kind, key_values(changes.items())))
    shares = [(label, f"{found.shares_before[label]:.1%}", f"{found.shares_after[label]:.1%}") for label in LABELS]
    parts.append(section("Classes", table(("class", "before", "after"), shares)))
    if found.p_value is not None:
        parts.append(
            f"Labels of the added rows against those of version {found.before}: "
            f"chi-square {found.chi_square:.1f}, p = {found.p_value:.3g}"
        )
    some = [
        (kind, row.get("label", row.get("label_before")), shorten(row["text"]))
        for kind, rows in found.examples.items()
        for row in rows
    ]
    if some:
        parts.append(section("For example", table(("", "label", "text"), some)))
    return "\n\n".join(parts)


def _by_source(kind: str, counted: Mapping[str, Mapping[str, int]]) -> str:
    rows = [(name, *by_label.values()) for name, by_label in counted.items()]
    return section(kind, table(("source", *LABELS), rows))


def _quarantine(settings: Settings, *, reason: str | None, source: str | None, limit: int) -> CommandResult:
    """Show rows that were not taken, the latest first: where each stands and what is wrong with it."""
    from finsent.data.inspection import quarantined

    found = quarantined(settings.home(), reason=reason, source=source, limit=limit)
    return CommandResult(found, _tell_quarantine(found))


def _tell_quarantine(found: "QuarantineView") -> str:
    if not found.total:
        return "The quarantine is empty."
    shown = "\n".join(line for row in found.rows for line in _lines(row))
    parts = [
        section(f"{found.total:,} rows in quarantine", table(("rows", "reason"), [(n, why) for why, n in found.reasons.items()])),
        shown,
    ]
    if len(found.rows) < found.total:
        parts.append(f"{len(found.rows):,} of {found.total:,} shown; more with --limit.")
    return "\n\n".join(part for part in parts if part)


def _lines(row: Mapping[str, Any]) -> tuple[str, str, str]:
    where = f"  {row['source']} row {cell_text(row['row'])}: {row['reason']}"
    return where, f"    {shorten(row['text'] or '(no text)')}", f"    {shorten(row['detail'], 200)}"
