"""`finsent predictions`: list, filter and write what was predicted."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from finsent.cli.options import LOCAL_PATH, CommandResult, Settings, cli, examples, suggest_command
from finsent.cli.output import Renderable, section, shorten, stack, table
from finsent.errors import InputError, quoted
from finsent.labels import LABELS

_AGO: Final = re.compile(r"(\d{1,6})([dh])")
_LISTED: Final = 20


@cli.command(
    "predictions",
    epilog=examples(
        "finsent predictions",
        "finsent predictions --since 7d --ticker AAPL --label Bullish",
        "finsent predictions --since 2026-11-01 --answered --out november.parquet",
        "finsent predictions --all-versions --out all.csv",
        "finsent predictions --abstained --limit 100 --json",
    ),
)
@click.option("--since", metavar="DATE|7d", help="Scored since then: a date or time (UTC), or so many days (d) or hours (h) ago.")
@click.option("--label", multiple=True, type=click.Choice(LABELS, case_sensitive=False), help="With this label. Repeatable.")
@click.option("--ticker", metavar="CASHTAG", help="With this cashtag in the text, e.g. AAPL, in any case.")
@click.option("--abstained/--answered", default=None, help="Only those with too little confidence for an answer, or only others.")
@click.option("--model", metavar="N", help="Of this version, or digest of a model, whether current or not.")
@click.option("--all-versions", is_flag=True, help="Every model's prediction of a tweet. Default: the newest of each tweet.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="The newest so many. Default: 20; with --out all.")
@click.option("--out", type=LOCAL_PATH, metavar="FILE", help="Write them to a new .parquet, .csv or .jsonl file.")
@click.pass_obj
def predictions_command(
    settings: Settings,
    *,
    since: str | None,
    label: tuple[str, ...],
    ticker: str | None,
    abstained: bool | None,
    model: str | None,
    all_versions: bool,
    limit: int | None,
    out: Path | None,
) -> CommandResult:
    """Show predictions, newest first, or write them to a file. One row for each tweet: its current prediction.

    The texts come from the inbox; a tweet that maintenance has removed from there is listed without its text.
    """
    from finsent.data.output_file import require_new_output, write_output
    from finsent.data.prediction_search import (
        WINDOW,
        PredictionFilter,
        find_newest,
        find_predictions,
        newest_first,
        output_schema,
        parse_ticker,
        read_found,
    )
    from finsent.logging_setup import track

    wanted = PredictionFilter(
        None if since is None else parse_since(since, datetime.now(UTC)),
        label,
        None if ticker is None else parse_ticker(ticker),
        abstained,
        model,
        all_versions,
    )
    if out is not None:
        require_new_output(out)
    home = settings.home()
    more = False
    if out is not None and limit is None:
        found = find_predictions(home, wanted)
    else:
        found, more = find_newest(home, wanted, _LISTED if limit is None else limit)
    if out is not None:
        windows = -(-len(found.places) // WINDOW)
        parts = track(read_found(home, found), description="writing", total=windows, unit="part")
        rows = write_output(out, output_schema(), parts)
        said = f"{rows:,} predictions written to {out}"
        if found.version is None:
            said += f". The home {str(home.root)!r} has none yet: `finsent score` makes them."
        return CommandResult({"rows": rows, "more": more, "out": out}, said)
    listed = newest_first(read_found(home, found))
    shown = _render(listed, more=more, nothing_scored=found.version is None)
    return CommandResult({"predictions": listed, "more": more}, shown)


def parse_since(given: str, now: datetime) -> datetime:
    """The time that `--since` names, in UTC.

    Raises:
        InputError: it names none.
    """
    ago = _AGO.fullmatch(given.strip().lower())
    try:
        if ago is not None:
            return now - timedelta(**{"days" if ago[2] == "d" else "hours": int(ago[1])})
        found = datetime.fromisoformat(given.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"--since {quoted(given)} is no time. Give a date such as {now:%Y-%m-%d}, {now:%Y-%m-%dT%H:%M}, or 7d or 12h for so "
            "long ago."
        ) from error


def _render(rows: list[dict[str, Any]], *, more: bool, nothing_scored: bool) -> Renderable:
    if nothing_scored:
        return f"There are no predictions yet. Next: {suggest_command('finsent score')}"
    if not rows and not more:
        return "No prediction matches."
    cells = [
        (
            "-" if row["scored_at"] is None else f"{row['scored_at']:%Y-%m-%d %H:%M}",
            "abstained" if row["abstained"] else row["label"],
            row["confidence"],
            row["model_version"],
            row["id"],
            "(no longer in the inbox)" if row["text"] is None else shorten(row["text"]),
        )
        for row in rows
    ]
    head = f"The newest {len(rows):,} predictions; there are more" if more else f"{len(rows):,} predictions"
    way = "More with --limit; all of them into a file with --out FILE." if more else ""
    return stack(section(head, table(("scored (UTC)", "answer", "confidence", "version", "id", "text"), cells)), way)
