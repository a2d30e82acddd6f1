"""`finsent ingest`, of labelled tweets or into the inbox; `finsent data`: versions, report, diff, audit, quarantine."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.class_files import class_sources, require_no_other_files, take_class_files
from finsent.cli.options import CommandResult, Settings, cli, examples, login
from finsent.cli.output import Renderable, cell_text, key_values, lines, plain, section, shorten, stack, table
from finsent.cli.render_data import render_inbox, render_ingestion
from finsent.cli.source_options import LABEL_OPTIONS, file_options, given_options, label_options, source_settings
from finsent.config import InboxSource, Source
from finsent.errors import FinsentError, InputError
from finsent.labels import LABELS

if TYPE_CHECKING:
    from pathlib import Path

    from finsent.data.ingest_report import IngestReport
    from finsent.data.leakage import FullAudit
    from finsent.data.removal import Removal
    from finsent.data.version_statistics import VersionDiff
    from finsent.data.versions_view import QuarantineView
    from finsent.steps.context import Context

_log = logging.getLogger(__name__)


@cli.command(
    "ingest",
    epilog=examples(
        "finsent ingest tweets.csv",
        "finsent ingest day.jsonl.gz --text body --label sentiment --created-at posted",
        "finsent ingest --label Bullish=bull.csv --label Bearish=bear.csv --name stocktwits",
        "finsent ingest 'archive/*.csv' --label-map '0=Bearish,1=Bullish,2=Neutral' --name archive",
        "finsent ingest hf://TimKoornstra/financial-tweets-sentiment --text tweet --label sentiment --label-map "
        "'0=Neutral,1=Bullish,2=Bearish'",
        "finsent ingest 's3://bucket/tweets/2025-*.csv.gz' --name archive",
        "finsent ingest postgresql+psycopg2://reader@db/desk --query 'SELECT body AS text, label FROM tweets'",
        "finsent ingest --inbox unlabelled.csv.gz",
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--inbox", is_flag=True, help="The files hold unlabelled tweets: put them into the inbox for scoring.")
@file_options
@label_options
@click.option("--name", metavar="NAME", help="Name of the source, which identifies it in later runs. Default: the file's name.")
@click.option("--query", metavar="SQL", help="Query for a database, where FILE is its SQLAlchemy URL.")
@click.option("--dry-run", is_flag=True, help="Do all of it but the writing, and say what would have been written.")
@click.option("--no-report", is_flag=True, help="Write no data report, log nothing to MLflow.")
@click.option("--split", metavar="SPLIT", help="Split of a Hub dataset; default: train.")
@click.option("--revision", metavar="REVISION", help="Revision of a Hub dataset: a commit, branch or tag.")
@click.pass_obj
def ingest_command(
    settings: Settings,
    /,
    files: tuple[str, ...],
    *,
    inbox: bool,
    name: str | None,
    dry_run: bool,
    no_report: bool,
    **given: Any,
) -> CommandResult:
    """Read tweets: check, deduplicate, split, store.

    Reads files, folders, globs, s3:// and the Hub (CSV, TSV, JSONL, Parquet; gzip and zstd too), or a database. Every row
    ends in exactly one place: accepted, duplicate, or quarantined with a reason. Without a FILE the configured
    `data.sources` are read. Near-duplicates share a split, so that the test set never leaks into training.
    """
    given, by_class = take_class_files(given)
    require_no_other_files(files, by_class)
    if name is not None and len(files) != 1 and not by_class:
        raise InputError(
            f"--name {name!r} names one source, and {len(files)} were given. Ingest them one by one, or leave --name out."
        )
    _check_options(files or tuple(item.uri for item in by_class), given | {"name": name}, inbox=inbox)
    if inbox and by_class:
        raise InputError(
            f"--label {by_class[0].label}={by_class[0].uri} is for labelled tweets, and --inbox takes unlabelled ones."
        )
    if inbox:
        return _receive(settings, files, given, dry_run=dry_run)
    from finsent.steps.ingest import ingest

    read_as = _of_source(given) | {"name": name}
    sources = tuple(Source(uri=file, **read_as) for file in files) or class_sources(by_class, read_as)
    context = settings.context()
    report = ingest(context, sources, dry_run=dry_run)
    page = None if no_report or dry_run else _publish_report(context, report)
    shown = stack(render_ingestion(report), f"Data report: {page}" if page else "")
    code = 2 if report.nothing_readable or report.next_to_nothing else 0
    return CommandResult({**plain(report), "page": None if page is None else str(page)}, shown, code=code)


def _publish_report(context: "Context", report: "IngestReport") -> "Path | None":
    """Write the version's data report and log it to MLflow. The rows are committed: an MLflow server that is down only warns."""
    from finsent.steps.data_report import page_path, report_ingestion

    if report.version is None:
        return None
    path = page_path(context.workspace, report.version)
    try:
        report_ingestion(context, report)
    except FinsentError as error:
        _log.warning(
            "version %d is committed and its page written, but MLflow does not have it (%s). Run `finsent data report` later.",
            report.version,
            error,
        )
    return path if path.exists() else None  # no rows, no page


def _of_source(given: Mapping[str, Any]) -> dict[str, Any]:
    others = {name: given[name] for name in ("query", "split", "revision") if given[name] is not None}
    return source_settings(given) | others


def _check_options(files: tuple[str, ...], given: Mapping[str, Any], *, inbox: bool) -> None:
    """Refuse options that files of another kind would silently ignore."""
    for option in ("split", "revision"):
        if given[option] is not None and (inbox or not files or not all(file.startswith("hf://") for file in files)):
            raise InputError(
                f"--{option} {given[option]!r} is for labelled datasets of the Hub (hf://owner/name), and of those alone."
            )
    if given["query"] is not None and (inbox or len(files) != 1):
        raise InputError(
            "--query needs one FILE, the database's URL, and labelled tweets. For the inbox, export the rows to a file."
        )
    of_labels = given_options({name: given[name] for name in ("name", *LABEL_OPTIONS)})
    if inbox and of_labels:
        raise InputError(f"{of_labels[0]} is for labelled tweets, and --inbox takes unlabelled ones. Leave one of the two out.")
    if not files and not inbox and (options := given_options(given)):
        raise InputError(f"{options[0]} needs a FILE: sources of the configuration (data.sources) have settings of their own.")


def _receive(settings: Settings, files: tuple[str, ...], given: Mapping[str, Any], *, dry_run: bool) -> CommandResult:
    from finsent.data.inbox import receive
    from finsent.data.sources.file_counts import next_to_nothing

    if not files:
        raise InputError("--inbox needs at least one FILE of unlabelled tweets.")
    data = settings.config().data
    sources = [InboxSource(uri=file, **source_settings(given)) for file in files]
    report = receive(
        sources,
        settings.home(),
        max_characters=data.max_characters,
        repaired=data.repair_mojibake,
        masked=data.mask_handles,
        dry_run=dry_run,
    )
    return CommandResult(report, render_inbox(report), code=2 if next_to_nothing(report.files) else 0)


@cli.group(
    "data", epilog=examples("finsent data versions", "finsent data report", "finsent data diff 1 2", "finsent data quarantine")
)
def data_group() -> None:
    """Look at the data: versions, report, quarantine. Only `remove` changes it."""


_LATEST = click.option("--version", type=int, metavar="N", help="Version of the data. Default: the latest.")


@data_group.command("versions", epilog=examples("finsent data versions", "finsent data versions --json"))
@click.pass_obj
def versions_command(settings: Settings) -> CommandResult:
    """List the versions of the data, newest first. Each was made by an ingestion, a review or a removal."""
    from finsent.data.versions_view import list_versions

    found = list_versions(settings.home())
    rows = [
        (
            item.version,
            f"{item.at:%Y-%m-%d %H:%M:%S}",
            "unreadable" if item.unreadable else item.rows,
            item.leaks,
            item.fingerprint,
            shorten(", ".join(item.inputs) if item.removed is None else f"(without {item.removed})"),
        )
        for item in found
    ]
    gone = [item.unreadable for item in found if item.unreadable]
    why = f"Versions that can no longer be read: {len(gone)}. The newest of them: {gone[0]}" if gone else ""
    heads = ("version", "at (UTC)", "rows", "leaks", "fingerprint", "read from")
    text = section("Versions of the data", table(heads, rows)) if rows else "There is no data yet. Run `finsent ingest FILE...`."
    return CommandResult({"versions": found}, stack(text, why))


@data_group.command("report", epilog=examples("finsent data report", "finsent data report --version 3 --no-mlflow"))
@_LATEST
@click.option("--no-mlflow", is_flag=True, help="Write the page alone, log nothing to MLflow.")
@click.pass_obj
def report_command(settings: Settings, version: int | None, *, no_mlflow: bool) -> CommandResult:
    """Write a version's report, and log it to MLflow.

    The report is one HTML page in the home, whose path is printed. It shows where every row ended, leaks, how label and
    source are confounded, what changed, what was quarantined.
    """
    from finsent.steps.data_report import describe, report_data

    done = report_data(settings.context(), version, to_mlflow=not no_mlflow)
    result = {"version": done.version, "path": done.path, "run_id": done.run_id, "report": describe(done.facts)}
    return CommandResult(result, str(done.path))


@data_group.command("diff", epilog=examples("finsent data diff 1 2", "finsent data diff 1 2 --json"))
@click.argument("before", type=int, metavar="V1")
@click.argument("after", type=int, metavar="V2")
@click.pass_obj
def diff_command(settings: Settings, before: int, after: int) -> CommandResult:
    """Show what changed between two versions of the data.

    Rows added, removed, relabelled, and moved between splits. Exit code 1 if a row moved between splits: a test row that
    was trained on later makes every score worthless.
    """
    from finsent.data.version_statistics import diff_versions

    found = diff_versions(settings.home(), before, after)
    return CommandResult(found, _render_difference(found), code=1 if found.moved else 0)


@data_group.command("audit", epilog=examples("finsent data audit", "finsent data audit --version 3 --json"))
@_LATEST
@click.pass_obj
def audit_command(settings: Settings, version: int | None) -> CommandResult:
    """Look for leaks across splits again, from the texts.

    Compares every text with every text of the other splits, using no index or earlier record. Exit code 1 if a pair of
    exact or near duplicates is found: then do not train on this version.
    """
    from finsent.data.leakage import audit_data

    audit = audit_data(settings.config(), settings.home(), version)
    pairs = [(name, audit.exact[name], audit.near[name]) for name in audit.exact]
    head = f"Data version {audit.version}: {audit.leaks} duplicate pairs across splits among {audit.rows:,} rows"
    found = section(head, table(("between", "exact", "near"), pairs))
    return CommandResult(audit, lines(found, *_form_changed(audit)), code=1 if audit.leaks else 0)


def _form_changed(audit: "FullAudit") -> list[str]:
    """What it means that another near-duplicate form split the rows, and what to do."""
    if not audit.form_changed:
        return []
    said = [
        f"An earlier release split these rows, by near-duplicate form {audit.split_form}; here they are compared by form",
        f"{audit.form}, which takes more texts for the same (those that differ in punctuation alone). No row has moved.",
    ]
    if not audit.leaks:
        return [*said, "By today's form, too, no text has a near duplicate in another split."]
    return [
        *said,
        "What to do: ingest all sources again into a new home, and train there: finsent ingest SOURCES... --home NEW",
        "A copy of the folder tables/reviews takes reviewers' decisions along.",
        "Models trained on this version know near copies of some of their test rows: their scores are a little too high.",
    ]


@data_group.command(
    "quarantine",
    epilog=examples("finsent data quarantine", "finsent data quarantine --reason 'contradictory label' --limit 100 --json"),
)
@click.option("--reason", metavar="REASON", help="Only rows with this reason.")
@click.option("--source", metavar="NAME", help="Only rows of this source, by its name in the quarantine.")
@click.option("--limit", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="Rows shown, at most.")
@click.pass_obj
def quarantine_command(settings: Settings, reason: str | None, source: str | None, limit: int) -> CommandResult:
    """Show the rows that ingestion rejected, and why. The latest come first."""
    from finsent.data.versions_view import quarantine_view

    found = quarantine_view(settings.home(), reason=reason, source=source, limit=limit)
    return CommandResult(found, _render_quarantine(found))


@data_group.command(
    "remove",
    epilog=examples(
        "finsent data remove archive --dry-run", "finsent data remove archive --why 'its labels were mapped wrongly'"
    ),
)
@click.argument("source", metavar="SOURCE")
@click.option("--why", metavar="TEXT", help="Why; kept with the version. Needed, but for --dry-run.")
@click.option("--who", metavar="NAME", help="Who decides; kept with the version. Default: your login name.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.pass_obj
def remove_command(settings: Settings, source: str, *, why: str | None, who: str | None, dry_run: bool) -> CommandResult:
    """Make a version without a source, to read it again.

    Earlier versions keep its rows; those of other sources keep their labels and splits. The source's schema and what was
    quarantined because of its labels go too. Exit code 1 if the leak audit of the new version finds a pair.
    """
    from finsent.data.leakage import audit_data
    from finsent.data.removal import remove_source

    if why is None and not dry_run:
        raise InputError("--why is missing: say why the source is removed. To see first what would be: --dry-run.")
    home = settings.home()
    done = remove_source(home, source, who=who or login(), why=why or "", dry_run=dry_run)
    audit = None if dry_run or not done.remaining else audit_data(settings.config(), home, done.version)
    leaks = None if audit is None else audit.leaks
    said = _form_changed(audit) if audit is not None and audit.leaks else []
    return CommandResult({**plain(done), "leaks": leaks}, lines(_render_removal(done, leaks), *said), code=1 if leaks else 0)


def _render_removal(done: "Removal", leaks: int | None) -> Renderable:
    rows = [(split, *(by_label.get(label, 0) for label in LABELS)) for split, by_label in done.rows.items()]
    n = sum(sum(by_label.values()) for by_label in done.rows.values())
    verb = "Would be removed" if done.dry_run else "Removed"
    head = f"{verb}: {n:,} rows of {done.source}, and {done.quarantined:,} entries of the quarantine"
    kept = f"{done.remaining:,} rows of other sources stay as they are" + (
        "" if leaks is None else f"; duplicate pairs across splits: {leaks}"
    )
    said = [kept + "."]
    if done.dry_run:
        said.append("Nothing was written.")
    else:
        said += [
            f"Data version {done.version} is without it; earlier versions keep it, and so do models trained on them.",
            "Rows of other sources that were duplicates of its rows come back when their files are ingested again.",
            "Next: ingest the source again, with the right options.",
        ]
    return stack(section(head, table(("split", *LABELS), rows)) if rows else head, lines(*said))


def _render_difference(found: "VersionDiff") -> Renderable:
    heading = f"Version {found.before} ({found.rows_before:,} rows) to version {found.after} ({found.rows_after:,} rows)"
    counts = [
        ("added", found.n_added),
        ("removed", found.n_removed),
        ("relabelled", sum(found.relabelled.values())),
        ("moved between splits", sum(found.moved.values())),
    ]
    parts = [section(heading, key_values(counts))]
    for kind, counted in (("Added", found.added), ("Removed", found.removed)):
        if counted:
            rows = [(name, *by_label.values()) for name, by_label in counted.items()]
            parts.append(section(kind, table(("source", *LABELS), rows)))
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
    return stack(*parts)


def _render_quarantine(found: "QuarantineView") -> Renderable:
    if not found.total:
        return "The quarantine is empty."
    reasons = table(("rows", "reason"), [(n, why) for why, n in found.reasons.items()])
    more = f"{len(found.rows):,} of {found.total:,} shown; more with --limit." if len(found.rows) < found.total else ""
    rows = [line for row in found.rows for line in _quarantine_lines(row)]
    return stack(section(f"{found.total:,} rows in quarantine", reasons), *([lines(*rows)] if rows else []), more)


def _quarantine_lines(row: Mapping[str, Any]) -> tuple[str, str, str]:
    own_id = f" (id {row['source_id']})" if row["source_id"] else ""
    where = f"  {row['source']} row {cell_text(row['row'])}{own_id}: {row['reason']}"
    return where, f"    {shorten(row['text'] or '(no text)')}", f"    {shorten(row['detail'], 200)}"
