"""`finsent ingest`: labelled tweets into the data, unlabelled ones into the inbox."""

import logging
from typing import TYPE_CHECKING, Any

import click

from finsent.cli import render
from finsent.cli.options import CommandResult, Settings, command, examples
from finsent.cli.output import plain
from finsent.config import Config, Source
from finsent.errors import InputError, ServiceError
from finsent.home import Home
from finsent.labels import LABELS

if TYPE_CHECKING:
    from pathlib import Path

    from finsent.pipeline.accounting import IngestReport

_log = logging.getLogger(__name__)


def register(group: click.Group) -> None:
    """Add `ingest`."""
    command(
        group,
        "ingest",
        "Read tweets: check, deduplicate, split, store.",
        epilog=examples(
            "finsent ingest tweets.csv",
            "finsent ingest day.jsonl.gz --text body --label sentiment --created-at posted",
            "finsent ingest 'archive/*.csv' --label-map '0=Bearish,1=Bullish,2=Neutral' --name archive",
            "finsent ingest hf://TimKoornstra/financial-tweets-sentiment --text tweet --label sentiment --label-map "
            "'0=Neutral,1=Bullish,2=Bearish'",
            "finsent ingest 's3://bucket/tweets/2025-*.csv.gz' --name archive",
            "finsent ingest postgresql+psycopg2://reader@db/desk --query 'SELECT body AS text, label FROM tweets'",
            "finsent ingest --inbox unlabelled.csv.gz",
        ),
        options=(
            click.argument("files", nargs=-1, metavar="[FILE]..."),
            click.option("--inbox", is_flag=True, help="The files hold unlabelled tweets: put them into the inbox for scoring."),
            click.option("--text", show_default="text", metavar="COLUMN", help="Column that holds the tweet."),
            click.option("--label", show_default="label", metavar="COLUMN", help="Column that holds the label."),
            click.option(
                "--label-map",
                metavar="MAP",
                help="What the file's labels mean, e.g. 0=Bearish,1=Bullish,2=Neutral. Numbers are never guessed.",
            ),
            click.option(
                "--created-at",
                metavar="COLUMN",
                help="Column that holds the time of writing; default: created_at, where the file has it.",
            ),
            click.option(
                "--name", metavar="NAME", help="Name of the source, by which it is known again; default: the file's name."
            ),
            click.option(
                "--format",
                type=click.Choice(["auto", "csv", "tsv", "jsonl", "parquet"]),
                default="auto",
                show_default=True,
                help="Format of the files; auto goes by their endings.",
            ),
            click.option("--query", metavar="SQL", help="What to ask a database for, where FILE is its SQLAlchemy URL."),
            click.option("--no-report", is_flag=True, help="Write no data report, log nothing to MLflow."),
            click.option("--split", metavar="SPLIT", help="Split of a Hub dataset; default: train."),
            click.option("--revision", metavar="REVISION", help="Revision of a Hub dataset: a commit, branch or tag."),
        ),
    )(_ingest)


def _ingest(
    settings: Settings, files: tuple[str, ...], *, inbox: bool, name: str | None, no_report: bool, **columns: Any
) -> CommandResult:
    """Read tweets from files, folders, globs, s3:// and the Hub (CSV, TSV, JSONL, Parquet; gzip and zstd too), or a database.

    Every row ends in exactly one place: accepted, duplicate, or quarantined with a reason. Without a FILE the configured
    `data.sources` are read. Splits go by near-duplicate group, so that the test set never leaks into training.
    """
    if name is not None and len(files) != 1:
        raise InputError(
            f"--name {name!r} names one source, and {len(files)} were given. Ingest them one by one, or leave --name out."
        )
    _check_options(files, columns | {"name": name}, inbox=inbox)
    if inbox:
        return _into_inbox(settings, files, columns["text"], columns["created_at"])
    from finsent.pipeline.ingest import ingest

    labels = label_map(columns["label_map"])
    given = {key: value for key, value in columns.items() if key != "label_map" and value is not None}
    sources = tuple(Source(uri=file, name=name, labels=labels, **given) for file in files)
    config, home = settings.config(), settings.home()
    report = ingest(config, home, sources)
    page = None if no_report else _publish(config, home, report)
    shown = render.render_ingestion(report) if page is None else f"{render.render_ingestion(report)}\n\nData report: {page}"
    return CommandResult({**plain(report), "page": None if page is None else str(page)}, shown)


def _publish(config: Config, home: Home, report: "IngestReport") -> "Path | None":
    """The page of the version, in MLflow too. The rows are committed by now, whatever becomes of the page."""
    from finsent.pipeline.data_report import page_path, report_ingestion

    if report.version is None:
        return None
    path = page_path(home, report.version)
    try:
        report_ingestion(config, home, report)
    except ServiceError as error:
        _log.warning(
            "version %d is committed and its page written, but MLflow does not have it (%s). Run `finsent data report` later.",
            report.version,
            error,
        )
    return path if path.exists() else None  # no rows, no page


def _check_options(files: tuple[str, ...], given: dict[str, Any], *, inbox: bool) -> None:
    """Options that would be passed over without a word where the files are of another kind."""
    for option in ("split", "revision"):
        if given[option] is not None and (inbox or not files or not all(file.startswith("hf://") for file in files)):
            raise InputError(
                f"--{option} {given[option]!r} is for labelled datasets of the Hub (hf://owner/name), and of those alone."
            )
    if given["query"] is not None and (inbox or len(files) != 1):
        raise InputError(
            "--query needs one FILE, the database's URL, and labelled tweets. For the inbox, export the rows to a file."
        )
    for option in ("name", "label", "label_map", "text", "created_at"):
        if given[option] is None:
            continue
        shown = f"--{option.replace('_', '-')} {given[option]!r}"
        if inbox and option in ("name", "label", "label_map"):
            raise InputError(f"{shown} is for labelled tweets, and --inbox takes unlabelled ones. Leave one of the two out.")
        if not inbox and not files:
            raise InputError(f"{shown} needs a FILE: sources of the configuration (data.sources) have settings of their own.")
    if given["format"] != "auto" and (inbox or not files):
        raise InputError(f"--format {given['format']!r} needs a labelled FILE.")


def _into_inbox(settings: Settings, files: tuple[str, ...], text: str | None, created_at: str | None) -> CommandResult:
    from finsent.data.inbox import receive

    if not files:
        raise InputError("--inbox needs at least one FILE of unlabelled tweets.")
    data = settings.config().data
    report = receive(
        files,
        settings.home(),
        text="text" if text is None else text,
        created_at=created_at,
        max_characters=data.max_characters,
        masked=data.mask_handles,
    )
    return CommandResult(report, render.render_inbox(report))


def label_map(given: str | None) -> dict[str, Any] | None:
    """`0=Bearish,1=Bullish` as a mapping to class names, in any case.

    Raises:
        InputError: not of that form, a class that does not exist, or a value given twice.
    """
    if given is None:
        return None
    names = {label.casefold(): label for label in LABELS}
    mapping: dict[str, Any] = {}
    for item in given.split(","):
        value, found, meaning = (part.strip() for part in item.partition("="))
        if not found or meaning.casefold() not in names:
            raise InputError(f"--label-map {given!r}: {item!r} is not VALUE=CLASS with one of the classes {', '.join(LABELS)}.")
        if value in mapping:
            raise InputError(f"--label-map {given!r}: the value {value!r} is given twice.")
        mapping[value] = names[meaning.casefold()]
    return mapping
