"""`finsent review decide`: doubtful labels one by one, each answered by a key and recorded at once."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import click

from finsent.cli.options import CommandResult, Settings, examples, login, suggest_command
from finsent.cli.output import Renderable, as_text, key_values, lines, shorten
from finsent.cli.review import LEAST_SHARE, check_conflicts, review_group, show_decided
from finsent.errors import InputError
from finsent.labels import LABELS

if TYPE_CHECKING:
    from finsent.data.corrections import ReviewDecision
    from finsent.steps.review_session import Question

_SHOWN: Final = 3  # near duplicates of a text


@review_group.command(
    "decide", epilog=examples("finsent review decide", "finsent review decide --limit 50", "finsent review decide --conflicts")
)
@click.option("--conflicts", is_flag=True, help="Texts quarantined because their labels contradict one another.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N. Default: those worth reading.")
@LEAST_SHARE
@click.option("--test", "with_test", is_flag=True, help="Test rows too; see `finsent review list --help`.")
@click.option("--who", metavar="NAME", help="Who decides; kept with the decision. Default: your login name.")
@click.option("--why", metavar="TEXT", default="read one by one", show_default=True, help="Why; kept with the decision.")
@click.pass_obj
def decide_command(
    settings: Settings,
    *,
    conflicts: bool,
    limit: int | None,
    least_share: float | None,
    with_test: bool,
    who: str | None,
    why: str,
) -> CommandResult:
    """Decide on doubtful labels one by one, with a key for each.

    Every answer is recorded at once, and what is decided is not asked again: quit at any time and go on later. The data
    changes when you quit, in one new version.
    """
    from finsent.data.corrections import apply_decisions
    from finsent.steps import review_list, review_session

    check_conflicts(conflicts, {"--test": with_test, "--least-share": least_share})
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(
            "`finsent review decide` reads keys, and this is no terminal. With a file: finsent review list --out review.csv, "
            "fill it in, finsent review apply review.csv."
        )
    home, who = settings.home(), who or login()
    apply_decisions(home)  # of a session that was killed
    found = (
        review_list.list_conflicts(home, limit=limit)
        if conflicts
        else review_list.list_suspects(home, limit=limit, with_test=with_test, least_share=least_share)
    )
    entries = found.entries if limit is not None else found.entries[: found.worth_reading]
    if not entries:
        return CommandResult(
            {"recorded": 0, "decisions": {}, "waiting": 0, "version": None, "left": 0}, _nothing_to_read(found.found)
        )
    record = review_session.recorder(home, entries, who=who, why=why)
    asked = review_session.questions(home, entries)
    decided = ask(
        asked, record, read_key=lambda: click.getchar().casefold(), say=lambda part: click.echo(as_text(part), err=True)
    )
    return _summary(decided, len(asked), *review_session.finish(home, decided))


def ask(
    questions: Sequence["Question"],
    record: Callable[[str, "ReviewDecision"], None],
    *,
    read_key: Callable[[], str],
    say: Callable[[Renderable], None],
) -> dict[str, "ReviewDecision"]:
    """Put the questions until they are through or the reviewer quits; what was decided, by id.

    Args:
        questions: In the order to be asked.
        record: Records a decision; raises InputError where the text cannot have it.
        read_key: The next key. KeyboardInterrupt and EOFError mean quit.
        say: Shows something.
    """
    decided: dict[str, ReviewDecision] = {}
    place = 0
    while place < len(questions):
        question = questions[place]
        say(_render(question, place, len(questions), decided))
        move = None
        while move is None:
            try:
                move = _answer(read_key(), question, decided, record, say)
            except (KeyboardInterrupt, EOFError):
                return decided
        if move is _QUIT:
            break
        place = max(place + move, 0)
    return decided


_QUIT: Final = 0


def _answer(
    key: str,
    question: "Question",
    decided: dict[str, "ReviewDecision"],
    record: Callable[[str, "ReviewDecision"], None],
    say: Callable[[Renderable], None],
) -> int | None:
    """Do what a key says: how far to go on, `_QUIT`, or None where another key is wanted."""
    if key in _MOVES:
        return _MOVES[key]
    entry = question.entry
    decision = _decision(key, question, decided.get(entry.id))
    if decision is None:
        say(f"  no such key: {key!r}. {_keys(question)}")
        return None
    try:
        record(entry.id, decision)
    except InputError as error:
        say(f"  {error}")
        return None
    decided[entry.id] = decision
    say(f"  -> {' '.join(filter(None, (_SAID[decision.kind], decision.label)))}")
    return 1


_MOVES: Final = {"s": 1, "b": -1, "q": _QUIT}
_SAID: Final = {"accept": "kept", "fix": "fixed to", "drop": "dropped"}


def _decision(key: str, question: "Question", before: "ReviewDecision | None") -> "ReviewDecision | None":
    from finsent.data.corrections import ReviewDecision

    entry = question.entry
    wanted = {"f": entry.suggested, **{str(number): label for number, label in enumerate(LABELS, 1)}}
    if key == "d":
        return ReviewDecision("drop")
    if key == "k" or (wanted.get(key) == entry.label and entry.kind == "suspect"):
        # taken back: the label as it was holds again only where a fix names it
        changed = before is not None and before.kind != "accept"
        return ReviewDecision("fix", entry.label) if changed else ReviewDecision("accept")
    return ReviewDecision("fix", wanted[key]) if wanted.get(key) else None


def _render(question: "Question", place: int, of: int, decided: dict[str, "ReviewDecision"]) -> Renderable:
    entry = question.entry
    changed = sum(decision.kind != "accept" for decision in decided.values())
    progress = f"; changed so far: {changed} of {len(decided)}" if decided else ""
    facts = [("label", entry.label)]
    if entry.suggested:
        facts.append(("suggested", entry.suggested))
    if entry.error_probability is not None and entry.confidence is not None:
        facts.append(("wrong", f"{entry.error_probability:.0%} (the model gives the label {entry.confidence:.1%})"))
    facts += [("source", f"{entry.source} {entry.source_id}" if entry.source_id else entry.source), ("id", entry.id)]
    facts.append(("both sides" if entry.kind == "conflict" else "where", entry.detail))
    if (before := decided.get(entry.id)) is not None:
        facts.append(("decided", " ".join(filter(None, (before.kind, before.label)))))
    contrary = [
        f"  near duplicate with another label: {row.label} in {row.source} ({row.id[:8]}): {shorten(row.text, 120)}"
        for row in question.contrary[:_SHOWN]
    ]
    if len(question.contrary) > _SHOWN:
        contrary.append(f"  and {len(question.contrary) - _SHOWN} more")
    text = "\n".join(f"    {line}" for line in entry.text.splitlines())
    head = f"\n--- {place + 1} of {of}{progress} ---"
    return lines(head, text, key_values(facts), *contrary, _keys(question))


def _keys(question: "Question") -> str:
    entry = question.entry
    fix = f"f fix to {entry.suggested} | " if entry.suggested else ""
    labels = ", ".join(f"{number} {label}" for number, label in enumerate(LABELS, 1))
    return f"  k keep {entry.label} | {fix}{labels} | d drop | s skip | b back | q quit"


def _nothing_to_read(found: int) -> str:
    if not found:
        return "There is nothing left to decide on."
    all_the_same = suggest_command("finsent review decide --limit 50", configuration=False)
    return f"None of the {found:,} listed is worth reading. To read on all the same: {all_the_same}"


def _summary(decided: dict[str, "ReviewDecision"], asked: int, version: int | None, waiting: int) -> CommandResult:
    from finsent.steps.review import ReviewResult

    left = asked - len(decided)
    go_on = (
        f"{left:,} of these {asked:,} left. To go on: {suggest_command('finsent review decide', configuration=False)}"
        if left
        else ""
    )
    kinds = Counter[str](decision.kind for decision in decided.values())
    result = ReviewResult(len(decided), dict(kinds), waiting, version)
    said = show_decided(result).text if decided else "Nothing was decided."
    return CommandResult({**vars(result), "left": left}, lines(said, go_on))
