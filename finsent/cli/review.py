"""`finsent review`: doubtful labels, what people decide about them, and the data brought in line."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.options import LOCAL_PATH, CommandResult, Settings, cli, examples, login, suggest_command
from finsent.cli.output import Renderable, lines, section, shorten, stack, table
from finsent.errors import InputError

if TYPE_CHECKING:
    from finsent.data.review_file import ReviewEntry
    from finsent.steps.review import ReviewResult
    from finsent.steps.review_list import ReviewListing

_WHO = click.option("--who", metavar="NAME", help="Who decides; kept with the decision. Default: your login name.")
_WHY = click.option("--why", metavar="TEXT", required=True, help="Why; kept with the decision.")
LEAST_SHARE = click.option(
    "--least-share",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="SHARE",
    help="Rows are worth reading while each is wrong with at least this estimated probability. Default: 0.25",
)
_IDS = click.argument("ids", nargs=-1, required=True, metavar="ID...")


@cli.group(
    "review",
    order=("list", "decide", "accept", "fix", "drop", "apply", "decisions"),
    epilog=examples(
        "finsent review list",
        "finsent review decide",
        "finsent review list --out review.csv",
        "finsent review apply review.csv --why 'read by two'",
        "finsent review fix 3fa9c1d2 Bearish --why 'sarcasm'",
    ),
)
def review_group() -> None:
    """Look at doubtful labels and decide on them.

    Labels are doubtful that are likely wrong or contradict one another. A decision is kept by the text's identity: it
    changes the data at once, in a new version, and every later ingestion applies it. No label changes without a decision.
    """


@review_group.command(
    "list",
    epilog=examples(
        "finsent review list --limit 20",
        "finsent review list --out review.csv",
        "finsent review list --conflicts --out conflicts.csv",
    ),
)
@click.option("--conflicts", is_flag=True, help="Texts quarantined because their labels contradict one another.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N. Default: all to a file, 20 here.")
@click.option("--out", type=LOCAL_PATH, metavar="FILE", help="CSV to fill in the columns decision, new_label and why.")
@click.option("--test", "with_test", is_flag=True, help="Look at test rows too; see above why that is left out.")
@LEAST_SHARE
@click.option("--anew", is_flag=True, help="Compute the list again, though the one that is kept fits the data.")
@click.pass_obj
def list_command(
    settings: Settings,
    *,
    conflicts: bool,
    limit: int | None,
    out: Path | None,
    with_test: bool,
    least_share: float | None,
    anew: bool,
) -> CommandResult:
    """List labels that are likely wrong.

    The likeliest errors come first, and it is said how many are worth reading: an estimate. With --conflicts, contradictions,
    each with both sides. Wrong labels are found by confident learning: a small model scores each row out of fold, its
    near-duplicates excluded. Training and validation rows are searched. Test rows are left out without --test: correcting them
    where a model doubts them makes the test easier for models of that kind. The list is kept until the data changes otherwise
    than by decisions about its rows.
    """
    from finsent.steps.review_list import list_conflicts, list_suspects, write_listing

    check_conflicts(conflicts, {"--test": with_test, "--least-share": least_share, "--anew": anew})
    home = settings.home()
    shown = limit if limit is not None or out is not None or settings.json else 20
    found = (
        list_conflicts(home, limit=shown)
        if conflicts
        else list_suspects(home, limit=shown, with_test=with_test, least_share=least_share, anew=anew)
    )
    if out is not None:
        write_listing(found, out)
    return CommandResult({**vars(found), "file": out}, _render_listing(found, out, conflicts=conflicts))


def check_conflicts(conflicts: bool, others: Mapping[str, object]) -> None:
    """Refuse --conflicts beside options of the search for wrong labels.

    Raises:
        InputError: one of them is given.
    """
    given = next((name for name, value in others.items() if value), None)
    if conflicts and given is not None:
        raise InputError(f"{given} goes with the search for wrong labels; conflicts are in no split yet. Leave it out.")


def _render_listing(found: "ReviewListing", out: Path | None, *, conflicts: bool) -> Renderable:
    if conflicts:
        head = f"{found.found:,} sides of contradictions that nobody has decided on"
        rows: list[Any] = [(item.id[:8], _origin(item), item.label, shorten(item.detail, 160)) for item in found.entries]
        columns: tuple[str, ...] = ("id", "source", "label", "both sides")
    else:
        head = f"{found.found:,} of {found.looked_at:,} labels are doubtful"
        if found.looked_at < found.of:
            head += f" (a random sample of the {found.of:,} rows)"
        rows = [
            (item.id[:8], _origin(item), item.label, item.suggested, f"{item.error_probability:.0%}", shorten(item.text))
            for item in found.entries
        ]
        columns = ("id", "source", "label", "suggested", "wrong", "text")
    if not found.entries:
        return f"{head}; {out} holds the heading alone" if out is not None else head
    worth = "" if conflicts else _worth_reading(found)
    if out is not None:
        filled = "Fill in decision (accept, fix or drop), new_label with fix, and why. Then: " + _next(
            f"apply {shlex.quote(str(out))}"
        )
        return section(f"{head}; {len(found.entries):,} of them are in {out}", worth, filled)
    flag = " --conflicts" if conflicts else ""
    all_of_them = _next(f"list{flag} --out {'conflicts' if conflicts else 'review'}.csv")
    more = f"The first {len(rows)}; all of them: {all_of_them}" if len(rows) < found.found else ""
    work = f"Decide on them one by one: {_next(f'decide{flag}')}"
    return stack(section(head), table(columns, rows), worth, lines(more, work))


def _next(command: str) -> str:
    return suggest_command(f"finsent review {command}", configuration=False)


def _worth_reading(found: "ReviewListing") -> Renderable:
    rows = [(f"first {item.first:,}", f"{item.errors:.0f}", f"{item.errors / item.first:.0%}") for item in found.expected]
    n, errors = found.worth_reading or 0, found.worth_errors or 0.0
    said = (
        f"Worth reading: the first {n:,} (about {errors:.0f} wrong labels, {errors / n:.0%} of them)"
        if n
        else "None is worth reading"
    )
    reviewed = found.reviewed
    so_far = ""
    if reviewed is not None and reviewed.rows:
        so_far = (
            f"Decided so far: {reviewed.rows:,}, {reviewed.changed:,} of them changed; {reviewed.expected:.0f} were expected."
        )
    return lines(
        table(("rows", "wrong labels expected", "share"), rows), f"{said}. An estimate, rather too high than too low.", so_far
    )


def _origin(item: "ReviewEntry") -> str:
    """The source, and the id that it has for the tweet itself."""
    return f"{item.source} {item.source_id}" if item.source_id else item.source


@review_group.command("accept", epilog=examples("finsent review accept 3fa9c1d2 b07e11aa --why 'right as they are'"))
@_IDS
@_WHO
@_WHY
@click.pass_obj
def accept_command(settings: Settings, ids: tuple[str, ...], *, who: str | None, why: str) -> CommandResult:
    """Confirm labels. The texts are no longer listed, and contradictions no longer quarantine them."""
    from finsent.steps.review import decide

    return show_decided(decide(settings.home(), ids, "accept", who=who or login(), why=why))


@review_group.command("fix", epilog=examples("finsent review fix 3fa9c1d2 Bearish --why 'sarcasm'"))
@click.argument("row_id", metavar="ID")
@click.argument("label")
@_WHO
@_WHY
@click.pass_obj
def fix_command(settings: Settings, row_id: str, label: str, *, who: str | None, why: str) -> CommandResult:
    """Correct a text's label. It holds in every later ingestion, too; the text's split stays."""
    from finsent.steps.review import decide

    return show_decided(decide(settings.home(), [row_id], "fix", who=who or login(), why=why, label=label))


@review_group.command("drop", epilog=examples("finsent review drop 3fa9c1d2 --why 'spam'"))
@_IDS
@_WHO
@_WHY
@click.pass_obj
def drop_command(settings: Settings, ids: tuple[str, ...], *, who: str | None, why: str) -> CommandResult:
    """Remove texts. Later ingestions quarantine them; earlier versions of the data keep them."""
    from finsent.steps.review import decide

    return show_decided(decide(settings.home(), ids, "drop", who=who or login(), why=why))


@review_group.command(
    "apply", epilog=examples("finsent review apply review.csv --who ada", "finsent review apply review.csv --why 'read by two'")
)
@click.argument("file", type=LOCAL_PATH)
@_WHO
@click.option("--why", metavar="TEXT", help="Why, for rows that give no reason of their own.")
@click.pass_obj
def apply_command(settings: Settings, file: Path, *, who: str | None, why: str | None) -> CommandResult:
    """Record the decisions filled into a listing. All of them, or none if one is wrong."""
    from finsent.steps.review import apply_file

    return show_decided(apply_file(settings.home(), file, who=who or login(), why=why))


def show_decided(result: "ReviewResult") -> CommandResult:
    """What decisions did."""
    given = ", ".join(f"{n:,} {kind}" for kind, n in sorted(result.decisions.items()))
    changed = f"Data version {result.version} has them. Earlier versions stay as they were."
    waiting = f"{result.waiting:,} of these texts are not in the data: ingest their source (again) to bring them in."
    text = lines(
        f"Decided: {given} ({result.recorded:,} recorded now)",
        "The data did not have to change." if result.version is None else changed,
        waiting if result.waiting else "",
    )
    return CommandResult(result, text)


@review_group.command("decisions", epilog=examples("finsent review decisions", "finsent review decisions --json"))
@click.pass_obj
def decisions_command(settings: Settings) -> CommandResult:
    """Show what was decided, by whom and why. Of several decisions on one text the last one applies."""
    from finsent.data.corrections import read_reviews

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
