"""One sitting of a reviewer on real tables: what is asked, and answers that outlive a kill."""

from collections.abc import Mapping

import pyarrow as pa
import pytest

from finsent.data import tables
from finsent.data.corrections import ReviewDecision, load_decisions
from finsent.data.review_file import ReviewEntry
from finsent.errors import InputError
from finsent.steps.review_session import finish, questions, recorder
from finsent.workspace import Workspace

FIX, KEEP, DROP = ReviewDecision("fix", "Bearish"), ReviewDecision("accept"), ReviewDecision("drop")
IDS = {name: name * 32 for name in "abcdef"}


def entry(name: str, label: str = "Bullish", kind: str = "suspect") -> ReviewEntry:
    return ReviewEntry(IDS[name], f"text {name}", label, "", None, "desk", "conflict" if kind == "conflict" else "suspect", "")


@pytest.fixture
def stored(home: Workspace) -> Workspace:
    """Two groups of near duplicates, of which one disagrees, and a text alone."""
    groups = {"a": ("g", "Bullish"), "b": ("g", "Bearish"), "c": ("g", "Bullish"), "d": ("h", "Neutral"), "e": ("i", "Bullish")}
    rows = [
        {"id": IDS[name], "text": f"text {name}", "label": label, "source": "desk", "group": group, "split": "train"}
        for name, (group, label) in groups.items()
    ]
    tables.append(home, "tweets", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"]))
    return home


def labels(home: Workspace) -> Mapping[str, str]:
    return {row["id"][0]: row["label"] for row in tables.read(home, "tweets", columns=["id", "label"]).to_pylist()}


def test_each_row_is_asked_once_beside_what_disagrees_with_it(stored: Workspace) -> None:
    asked = questions(stored, [entry("e"), entry("a"), entry("f", kind="conflict"), entry("f", "Bearish", "conflict")])
    assert [(question.entry.id[0], question.entry.label) for question in asked] == [
        ("e", "Bullish"),
        ("a", "Bullish"),
        ("f", "Bullish"),
    ]
    assert [[(row.id[0], row.label) for row in question.contrary] for question in asked] == [[], [("b", "Bearish")], []]


def test_an_answer_outlives_a_kill_and_the_data_follows(stored: Workspace) -> None:
    entries = [entry(name) for name in "abd"]
    record = recorder(stored, entries, who="ada", why="read")
    record(IDS["a"], FIX)
    record(IDS["d"], DROP)
    before = tables.version(stored, "tweets")
    assert before is not None
    assert load_decisions(stored) == {IDS["a"]: FIX, IDS["d"]: DROP}
    assert labels(stored)["a"] == "Bullish"
    decided = {IDS["a"]: FIX, IDS["d"]: DROP, IDS["f"]: KEEP}
    assert finish(stored, decided) == (before + 1, 1)
    assert labels(stored) == {"a": "Bearish", "b": "Bearish", "c": "Bullish", "e": "Bullish"}
    assert finish(stored, decided) == (None, 1)


def test_what_a_text_cannot_have_is_refused_and_not_recorded(stored: Workspace) -> None:
    recorder(stored, [entry("a")], who="ada", why="read")(IDS["a"], FIX)
    with pytest.raises(InputError, match="was fixed to Bearish"):
        recorder(stored, [entry("a")], who="ada", why="read")(IDS["a"], KEEP)
    assert load_decisions(stored) == {IDS["a"]: FIX}
