"""`finsent review`: labels to look at, what people decide about them, and the data brought in line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.options import CommandResult, Settings, command, examples, login
from finsent.cli.output import section, shorten, table
from finsent.errors import InputError

if TYPE_CHECKING:
    from finsent.pipeline.review import Listing, Recorded

_WHO = click.option("--who", metavar="NAME", help="Who decides; kept with the decision. Default: your login name.")
_WHY = click.option("--why", metavar="TEXT", required=True, help="Why; kept with the decision.")
_IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...")


def register(group: click.Group) -> None:
    """Add `review` and its commands."""

    @group.group(
        "review",
        short_help="Look at doubtful labels and decide on them.",
        epilog=examples(
            "finsent review list --out review.csv",
            "finsent review apply review.csv --why 'read by two'",
            "finsent review fix 3fa9c1d2 Bearish --why 'sarcasm'",
        ),
    )
    def review() -> None:
        """Find labels that are likely wrong or contradict one another, and record what becomes of them.

        Decisions are kept by the text's identity: they change the data at once, in one new version, and every later ingestion
        respects them. Nothing is changed without one.
        """

    command(
        review,
        "list",
        "Labels that are likely wrong, most doubtful first.",
        epilog=examples(
            "finsent review list --limit 20",
            "finsent review list --out review.csv",
            "finsent review list --conflicts --out conflicts.csv",
        ),
        options=(
            click.option("--conflicts", is_flag=True, help="Texts quarantined because their labels contradict one another."),
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="N", help="The first N. Default: all to a file, 20 here."
            ),
            click.option("--out", type=Path, metavar="FILE", help="CSV to fill in the columns decision, new_label and why."),
            click.option("--test", "with_test", is_flag=True, help="Look at test rows too; see above why that is left out."),
        ),
    )(_list)
    _register_decisions(review)
    command(
        review,
        "decisions",
        "What was decided, by whom and why.",
        epilog=examples("finsent review decisions", "finsent review decisions --json"),
    )(_decisions)


def _register_decisions(review: click.Group) -> None:
    """The commands that decide."""
    command(
        review,
        "accept",
        "The label stands.",
        epilog=examples("finsent review accept 3fa9c1d2 b07e11aa --why 'right as they are'"),
        options=(_IDS, _WHO, _WHY),
    )(_accept)
    command(
        review,
        "fix",
        "The label is another one.",
        epilog=examples("finsent review fix 3fa9c1d2 Bearish --why 'sarcasm'"),
        options=(click.argument("row_id", metavar="ID"), click.argument("label"), _WHO, _WHY),
    )(_fix)
    command(
        review,
        "drop",
        "The text goes, and stays out.",
        epilog=examples("finsent review drop 3fa9c1d2 --why 'spam'"),
        options=(_IDS, _WHO, _WHY),
    )(_drop)
    command(
        review,
        "apply",
        "Record the decisions filled into a listing.",
        epilog=examples("finsent review apply review.csv --who ada", "finsent review apply review.csv --why 'read by two'"),
        options=(
            click.argument("file", type=Path),
            _WHO,
            click.option("--why", metavar="TEXT", help="Why, for rows that give no reason of their own."),
        ),
    )(_apply)


def _list(settings: Settings, *, conflicts: bool, limit: int | None, out: Path | None, with_test: bool) -> CommandResult:
    """List labels that are likely wrong, the least believed first, or conflicts, each with its sides.

    Wrong labels are found by confident learning: a small model judges each row by the others, never by its own near
    duplicates. It looks at training and validation rows. Test rows are left out unless asked for with --test: correcting
    them where a model doubts them makes the test easier for models of that kind.
    """
    from finsent.pipeline import review

    if conflicts and with_test:
        raise InputError("--test goes with the search for wrong labels; conflicts are in no split yet. Leave it out.")
    home = settings.home()
    shown = limit if limit is not None or out is not None or settings.json else 20
    found = (
        review.list_conflicts(home, limit=shown) if conflicts else review.list_suspects(home, limit=shown, with_test=with_test)
    )
    if out is not None:
        review.write_listing(found, out)
    return CommandResult({**vars(found), "file": out}, _listing(found, out, conflicts=conflicts))


def _listing(found: "Listing", out: Path | None, *, conflicts: bool) -> str:
    if conflicts:
        head = f"{found.found:,} sides of contradictions that nobody has decided on"
        rows: list[Any] = [(item.id[:8], item.label, shorten(item.detail, 160)) for item in found.entries]
        columns: tuple[str, ...] = ("id", "label", "both sides")
    else:
        head = f"{found.found:,} of {found.looked_at:,} labels are doubtful"
        if found.looked_at < found.of:
            head += f" (a random sample of the {found.of:,} rows)"
        rows = [(item.id[:8], item.label, item.suggested, item.confidence, shorten(item.text)) for item in found.entries]
        columns = ("id", "label", "rather", "believed", "text")
    if not found.entries:
        return head
    if out is not None:
        return section(
            f"{head}; {len(found.entries):,} of them are in {out}",
            "Fill in decision (accept, fix or drop), new_label with fix, and why. Then: finsent review apply " + str(out),
        )
    again = "finsent review list --conflicts --out conflicts.csv" if conflicts else "finsent review list --out review.csv"
    more = f"The first {len(rows)}; all of them: {again}" if len(rows) < found.found else ""
    return "\n\n".join([head, table(columns, rows), *([more] if more else [])])


def _accept(settings: Settings, ids: tuple[str, ...], *, who: str | None, why: str) -> CommandResult:
    """Say that labels are right: the texts are listed no more, and contradictions no longer keep them out."""
    from finsent.pipeline.review import decide

    return _recorded(decide(settings.home(), ids, "accept", who=who or login(), why=why))


def _fix(settings: Settings, row_id: str, label: str, *, who: str | None, why: str) -> CommandResult:
    """Give a text its right label, now and in every later ingestion. Its split stays."""
    from finsent.pipeline.review import decide

    return _recorded(decide(settings.home(), [row_id], "fix", who=who or login(), why=why, label=label))


def _drop(settings: Settings, ids: tuple[str, ...], *, who: str | None, why: str) -> CommandResult:
    """Take texts out of the data; later ingestions quarantine them. Earlier versions of the data keep them."""
    from finsent.pipeline.review import decide

    return _recorded(decide(settings.home(), ids, "drop", who=who or login(), why=why))


def _apply(settings: Settings, file: Path, *, who: str | None, why: str | None) -> CommandResult:
    """Record the decisions that were filled into a listing: all of them, or none if one is wrong."""
    from finsent.pipeline.review import apply_file

    return _recorded(apply_file(settings.home(), file, who=who or login(), why=why))


def _recorded(result: "Recorded") -> CommandResult:
    given = ", ".join(f"{n:,} {kind}" for kind, n in sorted(result.decisions.items()))
    lines = [f"Decided: {given} ({result.recorded:,} recorded now)"]
    if result.version is None:
        lines.append("The data did not have to change.")
    else:
        lines.append(f"Data version {result.version} has them. Earlier versions stay as they were.")
    if result.waiting:
        lines.append(f"{result.waiting:,} of these texts are not in the data: ingest their source (again) to bring them in.")
    return CommandResult(result, "\n".join(lines))


def _decisions(settings: Settings) -> CommandResult:
    """Show every decision in the order they were made; of several on one text the last holds."""
    from finsent.data.reviews import read_reviews

    reviews = read_reviews(settings.home())
    if not reviews:
        return CommandResult({"decisions": []}, "Nobody has decided on anything yet. Next: finsent review list")
    rows = [
        (
            review.decided_at.isoformat(timespec="seconds"),
            review.who,
            review.id[:8],
            " ".join(filter(None, (review.decision.kind, review.decision.label))),
            shorten(review.why, 40),
            shorten(review.text or "(not known)"),
        )
        for review in reviews
    ]
    return CommandResult({"decisions": reviews}, table(("when", "who", "id", "decision", "why", "text"), rows))
