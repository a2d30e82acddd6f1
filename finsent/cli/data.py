"""`finsent ingest`: labelled tweets into the data, unlabelled ones into the inbox."""

from typing import Any

import click

from finsent.cli import reports
from finsent.cli.options import Outcome, Settings, command, examples
from finsent.config import Source
from finsent.errors import InputError
from finsent.labels import LABELS


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
            "finsent ingest --inbox unlabelled.csv.gz",
        ),
        options=(
            click.argument("files", nargs=-1, metavar="[FILE]..."),
            click.option("--inbox", is_flag=True, help="The files hold unlabelled tweets: put them into the inbox for scoring."),
            click.option("--text", default="text", show_default=True, metavar="COLUMN", help="Column that holds the tweet."),
            click.option("--label", default="label", show_default=True, metavar="COLUMN", help="Column that holds the label."),
            click.option(
                "--label-map",
                metavar="MAP",
                help="What the file's labels mean, e.g. 0=Bearish,1=Bullish,2=Neutral. Numbers are never guessed.",
            ),
            click.option("--created-at", metavar="COLUMN", help="Column that holds the time of writing."),
            click.option("--name", metavar="NAME", help="Name of the source in reports; default: the file's name."),
        ),
    )(_ingest)


def _ingest(settings: Settings, files: tuple[str, ...], *, inbox: bool, name: str | None, **columns: Any) -> Outcome:
    """Read tweets from files, folders, globs or the Hub (CSV, TSV, JSONL, Parquet; gzip too).

    Every row ends in exactly one place: accepted, duplicate, or quarantined with a reason. Without a FILE the configured
    `data.sources` are read. Splits go by near-duplicate group, so that the test set never leaks into training.
    """
    if name and len(files) != 1:
        raise InputError(
            f"--name {name!r} names one source, and {len(files)} were given. Ingest them one by one, or leave --name out."
        )
    if inbox:
        return _into_inbox(settings, files, columns["text"], columns["created_at"])
    from finsent.pipeline.ingest import ingest

    labels = label_map(columns["label_map"])
    sources = tuple(
        Source(uri=file, name=name, text=columns["text"], label=columns["label"], created_at=columns["created_at"], labels=labels)
        for file in files
    )
    report = ingest(settings.config(), settings.home(), sources)
    return Outcome(report, reports.ingestion(report))


def _into_inbox(settings: Settings, files: tuple[str, ...], text: str, created_at: str | None) -> Outcome:
    from finsent.data.inbox import receive

    if not files:
        raise InputError("--inbox needs at least one FILE of unlabelled tweets.")
    data = settings.config().data
    report = receive(
        files,
        settings.home(),
        text=text,
        created_at=created_at,
        max_characters=data.max_characters,
        masked=data.mask_handles,
    )
    return Outcome(report, reports.received(report))


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
