"""`finsent review decide`: keys in, decisions recorded one at a time, and a terminal that no tweet can write to."""

import os
import pty
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from finsent.cli.output import as_text
from finsent.cli.review_decide import ask
from finsent.data.corrections import ReviewDecision
from finsent.data.review_file import ReviewEntry
from finsent.errors import InputError
from finsent.steps.review_session import NearDuplicate, Question
from tests.cli.test_review import TSLA, at  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent

KEEP, DROP = ReviewDecision("accept"), ReviewDecision("drop")


def question(name: str, text: str = "up \x1b]0;evil\x07 we go", kind: Any = "suspect") -> Question:
    suspect = kind == "suspect"
    entry = ReviewEntry(
        id=name * 32,
        text=text,
        label="Bullish",
        suggested="Bearish" if suspect else "",
        confidence=0.02 if suspect else None,
        source="desk",
        kind=kind,
        detail="in the train split",
        source_id="1650000000000000101",
        error_probability=0.71 if suspect else None,
    )
    return Question(entry, (NearDuplicate("b" * 32, "down \x1b[2J we go", "Bearish", "street"),))


def put(
    keys: str, *questions: Question, refuse: str = ""
) -> tuple[dict[str, ReviewDecision], list[tuple[str, ReviewDecision]], str]:
    """What was decided and recorded, and all that was shown."""
    recorded: list[tuple[str, ReviewDecision]] = []
    shown: list[str] = []

    def record(row_id: str, decision: ReviewDecision) -> None:
        if decision.kind == refuse:
            raise InputError("say which with fix")
        recorded.append((row_id[0], decision))

    left: Iterator[str] = iter(keys)

    def read_key() -> str:
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    decided = ask(questions, record, read_key=read_key, say=lambda part: shown.append(as_text(part)))
    return {row_id[0]: decision for row_id, decision in decided.items()}, recorded, "\n".join(shown)


def test_every_key_does_what_it_says() -> None:
    rows = [question(name) for name in "abcdef"]
    decided, recorded, shown = put("kfd1s3", *rows)
    assert decided == {
        "a": KEEP,
        "b": ReviewDecision("fix", "Bearish"),
        "c": DROP,
        "d": ReviewDecision("fix", "Neutral"),
        "f": ReviewDecision("fix", "Bearish"),
    }
    assert recorded == list(decided.items())
    assert "--- 6 of 6; changed so far: 3 of 4 ---" in shown
    assert put("2", *rows)[0] == {"a": KEEP}
    assert put("kq", *rows)[0] == put("k", *rows)[0] == {"a": KEEP}
    assert "no such key: 'x'.   k keep Bullish | f fix to Bearish | 1 Neutral, 2 Bullish, 3 Bearish" in put("xk", *rows)[2]


def test_what_is_shown_cannot_act_on_the_terminal() -> None:
    shown = put("", question("a"))[2]
    assert not any(character < " " and character != "\n" for character in shown)
    for part in (
        "    up \\x1b]0;evil\\x07 we go",
        "label      Bullish",
        "suggested  Bearish",
        "wrong      71% (the model gives the label 2.0%)",
        "desk 1650000000000000101",
        "a" * 32,
        "near duplicate with another label: Bearish in street (bbbbbbbb): down \\x1b[2J we go",
    ):
        assert part in shown


def test_an_answer_is_taken_back() -> None:
    decided, recorded, shown = put("fbkbsd", question("a"), question("b"))
    assert decided == {"a": ReviewDecision("fix", "Bullish"), "b": DROP}
    assert recorded == [("a", ReviewDecision("fix", "Bearish")), ("a", ReviewDecision("fix", "Bullish")), ("b", DROP)]
    assert "decided    fix Bearish" in shown


def test_an_answer_that_a_text_cannot_have_is_refused_and_asked_again() -> None:
    decided, recorded, shown = put("kf2", question("a", kind="conflict"), refuse="accept")
    assert decided == {"a": ReviewDecision("fix", "Bullish")}
    assert "say which with fix" in shown
    assert "no such key: 'f'" in shown
    assert recorded == [("a", ReviewDecision("fix", "Bullish"))]


def test_no_terminal_is_said(finsent: "Finsent", tmp_path: Path) -> None:
    refused = finsent("review", "decide", "--home", tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert "reads keys, and this is no terminal. With a file: finsent review list --out review.csv" in refused.err


def type_keys(keyboard: int, terminal: int, keys: dict[str, str], shown: list[str]) -> None:
    """Type each key once its text was shown and a key is waited for: what is typed before is discarded."""
    for awaited, key in keys.items():
        while awaited not in "".join(shown):
            shown.append(os.read(keyboard, 65536).decode())
        while termios.tcgetattr(terminal)[3] & termios.ICANON:
            time.sleep(0.005)
        os.write(keyboard, key.encode())
    while "-> fixed" not in "".join(shown):
        shown.append(os.read(keyboard, 65536).decode())


def test_on_a_terminal(
    at: tuple[str, str],  # noqa: F811
    finsent: "Finsent",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keyboard, terminal = pty.openpty()
    shown: list[str] = []
    with os.fdopen(terminal, closefd=False) as stdin, os.fdopen(terminal, "w", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stderr", stderr)
        typist = threading.Thread(target=type_keys, args=(keyboard, terminal, {"q quit": "k", "say which": "3"}, shown))
        typist.start()
        done = finsent("review", "decide", "--conflicts", "--who", "ada", *at)
        typist.join()
        again = finsent("review", "decide", "--conflicts", *at, "--json")
        decisions = finsent("review", "decisions", *at, "--json").json()["decisions"]
    os.close(keyboard)
    os.close(terminal)
    assert "--- 1 of 1 ---" in "".join(shown)
    assert f"'{TSLA}' was read as Bearish and as Bullish" in "".join(shown)
    assert done.code == 0
    assert done.out.startswith(
        "Decided: 1 fix (1 recorded now)\nThe data did not have to change.\n1 of these texts are not in the"
    )
    assert again.json() == {"recorded": 0, "decisions": {}, "waiting": 0, "version": None, "left": 0}
    assert [(item["id"], item["decision"]["label"], item["why"], item["who"]) for item in decisions] == [
        (TSLA, "Bearish", "read one by one", "ada")
    ]
