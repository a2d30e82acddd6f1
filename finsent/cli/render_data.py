"""How data that was read looks to a person: ingestion, inbox, and a line for each file."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from finsent.cli.options import suggest_command
from finsent.cli.output import Renderable, duration, section, stack, table
from finsent.errors import format_names

_FILES_SHOWN: Final = 20  # of as many files each has a line
_LINES: Final = 100


def render_ingestion(report: Any) -> Renderable:
    """Where every row ended, the splits, the leak audit."""
    stays = "there is no data yet" if report.version is None else f"the data stays at version {report.version}"
    nothing = f"NOTHING COULD BE READ, {stays}" if report.nothing_readable else f"Nothing new, {stays}"
    heading = f"Data version {report.version}" if report.new_version else nothing
    if report.dry_run:
        heading = "Dry run, nothing was written"
    counts = ("read", "accepted", "duplicates", "quarantined", *(("unlabelled",) if report.unlabelled else ()))
    sources = [(name, *(found[count] for count in counts)) for name, found in report.by_source.items()]
    total = ("all", *(getattr(report, count) for count in counts))
    return stack(
        f"{heading}: {report.read:,} rows read = {report.accepted:,} accepted "
        f"+ {report.duplicates:,} duplicates + {report.quarantined:,} quarantined"
        + (f" + {report.unlabelled:,} unlabelled" if report.unlabelled else "")
        + f" ({duration(report.seconds)})",
        table(("source", *counts), [*sources, total] if len(sources) > 1 else sources),
        _quarantine_reasons(report.reasons),
        render_files(report, "accepted"),
        *_unread_columns(report.unread_columns, report.unread_dates),
        f"{report.dates_not_filled:,} stored rows without a creation time came again with one: it is not filled in, since stored "
        "rows never change. To have it, ingest into a new home"
        if report.dates_not_filled
        else "",
        _flags(report.flags),
        f"{report.split_conflicts:,} groups of new rows touched two splits: see `split conflict` in the quarantine"
        if report.split_conflicts
        else "",
        *(() if report.version is None else (_splits(report.splits), leak_audit(report.leaks, report.naive_leak))),
    )


def render_files(report: Any, taken: str, known: str = "duplicates") -> str:
    """One line for each of a few files, of many for those whose rows were not all taken; and the files that were left out.

    Of a single file the totals say the same, unless rows were rejected: then it has an example of each reason.
    """
    return "\n".join(_file_lines(report, taken, known))


def _file_lines(report: Any, taken: str, known: str) -> Iterator[str]:
    fully = [item for item in report.files if item.read == item.taken + item.duplicates]
    every = 1 < len(report.files) <= _FILES_SHOWN
    shown = [item for item in report.files if every or item not in fully][:_LINES]
    for counts in shown:
        why = [f"{n:,} {reason} ({counts.examples[reason]})" for reason, n in counts.reasons.items()]
        why += [f"{counts.unlabelled:,} unlabelled"] if counts.unlabelled else []
        again = f", {counts.duplicates:,} {known}" if counts.duplicates else ""
        yield "; ".join([f"{counts.file}: {counts.read:,} rows read, {counts.taken:,} {taken}{again}", *why])
    if not every and len(report.files) > max(1, len(shown)):
        yield f"{len(report.files) - len(shown):,} more files" + (", of which every row was taken" if len(shown) < _LINES else "")
    if report.left_out:
        yield f"Left out, since their endings are not read ({len(report.left_out)}): {format_names(report.left_out)}"


def _unread_columns(by_source: Mapping[str, Sequence[str]], dates: Mapping[str, str]) -> Iterator[str]:
    for source, columns in by_source.items():
        if columns:
            hint = f" (dates? --created-at {shlex.quote(dates[source])})" if source in dates else ""
            yield f"{source}: columns not read: {format_names(columns)}{hint}"


def render_inbox(report: Any) -> Renderable:
    """What arrived in the inbox."""
    return stack(
        "Dry run, nothing was written: " * report.dry_run
        + f"{report.read:,} rows read = {report.received:,} received into the inbox "
        + f"+ {report.known - report.repeated:,} known already "
        + (f"+ {report.repeated:,} the same again in these files " if report.repeated else "")
        + f"+ {report.quarantined:,} quarantined",
        _quarantine_reasons(report.reasons),
        render_files(report, "received", "known already"),
        f"{report.undated:,} rows taken without a date, since theirs cannot be read" if report.undated else "",
        _flags(report.flags),
        "" if report.dry_run else f"Next: {suggest_command('finsent score')}",
    )


def _flags(flags: Mapping[str, int]) -> Renderable:
    return section("Noted about texts", table(("rows", "what"), [(n, flag) for flag, n in flags.items()])) if flags else ""


def _quarantine_reasons(reasons: Mapping[str, int]) -> Renderable:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return section("Quarantined because", table(("rows", "reason"), [(n, reason) for reason, n in ordered])) if ordered else ""


def _splits(counts: Mapping[str, Mapping[str, int]]) -> Renderable:
    labels = list(dict.fromkeys(label for by_label in counts.values() for label in by_label))
    rows = [(name, *(by_label.get(label, 0) for label in labels), sum(by_label.values())) for name, by_label in counts.items()]
    return section("Splits", table(("split", *labels, "all"), rows))


def leak_audit(pairs: int | None, naive: float | None) -> str:
    """The leak audit in one line."""
    audit = "Leak audit: not made" if pairs is None else f"Leak audit: {pairs} duplicate pairs across splits"
    return audit + ("" if naive is None else f"; a random split would have leaked {naive:.1%} of its test rows")
