"""Review on real tables: what is listed, what decisions do to the data and to the next listing, and a crash half-way."""

import csv
import json
import tracemalloc
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finsent.config import Source, load_config
from finsent.data import tables
from finsent.data.corrections import ReviewDecision, load_decisions, parse_class_name, read_reviews
from finsent.data.dataset import data_version
from finsent.data.quarantine import append_records, earlier_conflicts
from finsent.data.review_file import IdLookup
from finsent.data.sample import sample_sources
from finsent.data.sources.records import QuarantinedRow
from finsent.data.validation.row_validation import CONFLICT
from finsent.data.versions_view import quarantine_examples, quarantine_view
from finsent.errors import InputError
from finsent.evaluation.label_noise import ExpectedErrors
from finsent.steps import review as module
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.review import ReviewResult, apply_file, decide
from finsent.steps.review_list import Reviewed, list_conflicts, list_suspects, write_listing
from finsent.text import text_id
from finsent.workspace import Workspace, resolve_workspace

CONFIG = load_config()
WHO = {"who": "ada", "why": "read"}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A desk of the sample; leave it as it was."""
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("sampled"))})
    ingest(make_context(CONFIG, home), sample_sources(1)[:1])
    return home


def fill(home: Workspace, path: Path, *rows: tuple[str, str]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    ingest(make_context(CONFIG, home), [Source(uri=str(path))])


@pytest.fixture
def small(home: Workspace, tmp_path: Path) -> Workspace:
    """Two tweets in the data, a text with two labels and a near pair with two in the quarantine."""
    fill(
        home,
        tmp_path / "small.jsonl",
        ("$AAPL to the moon and beyond", "Bullish"),
        ("the fed meets on tuesday afternoon", "Neutral"),
        ("is $TSLA done? discuss", "Bullish"),
        ("is $TSLA done? discuss", "Bearish"),
        ("guidance of $XYZ was raised for the whole of the year", "Bullish"),
        ("guidance of $XYZ was raised for the whole of the year!", "Bearish"),
    )
    return home


MOON, FED, DONE = map(text_id, ("$AAPL to the moon and beyond", "the fed meets on tuesday afternoon", "is $TSLA done? discuss"))


def labels(home: Workspace, version: int | None = None) -> dict[str, str]:
    rows = tables.read(home, "tweets", version=version, columns=["id", "label"])
    return dict(zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True))


def test_suspects_are_rows_of_training_and_validation_ranked(sampled: Workspace) -> None:
    listing = list_suspects(sampled)
    stored = {row["id"]: row for row in tables.read(sampled, "tweets").to_pylist()}
    looked_at = [row for row in stored.values() if row["split"] != "test"]
    assert listing.looked_at == listing.of == len(looked_at)
    assert listing.found == len(listing.entries) > 10
    ranking = [(-(entry.error_probability or 0.0), entry.confidence) for entry in listing.entries]
    assert ranking == sorted(ranking)
    errors = [entry.error_probability or 0.0 for entry in listing.entries]
    assert listing.expected[-1] == ExpectedErrors(listing.found, pytest.approx(sum(errors)))
    assert listing.worth_reading == sum(error >= 0.25 for error in errors)
    assert listing.worth_errors == pytest.approx(sum(errors[: listing.worth_reading]))
    for entry in listing.entries:
        row = stored[entry.id]
        assert (entry.text, entry.label, entry.source, entry.kind) == (row["text"], row["label"], row["source"], "suspect")
        assert entry.suggested != entry.label
        assert entry.detail == f"in the {row['split']} split"
        assert row["split"] != "test"
    again = list_suspects(sampled, limit=3, least_share=0.5)
    assert (again.entries, again.from_cache, again.found) == (listing.entries[:3], True, listing.found)
    assert again.worth_reading == sum(error >= 0.5 for error in errors)


def test_test_rows_are_looked_at_when_asked_for(sampled: Workspace) -> None:
    listing = list_suspects(sampled, with_test=True)
    assert listing.of == tables.read(sampled, "tweets").num_rows
    assert any(entry.detail == "in the test split" for entry in listing.entries)


def test_nothing_to_look_at_is_said(home: Workspace) -> None:
    with pytest.raises(InputError, match="no data to review yet"):
        list_suspects(home)
    assert list_conflicts(home).entries == []


def test_conflicts_show_each_side_once_and_together(small: Workspace, tmp_path: Path) -> None:
    ingest(make_context(CONFIG, small), [Source(uri=str(tmp_path / "small.jsonl"), name="again")])
    listing = list_conflicts(small)
    shown = [(entry.text, entry.label) for entry in listing.entries]
    assert sorted(shown) == [
        ("guidance of $XYZ was raised for the whole of the year", "Bullish"),
        ("guidance of $XYZ was raised for the whole of the year!", "Bearish"),
        ("is $TSLA done? discuss", "Bearish"),
        ("is $TSLA done? discuss", "Bullish"),
    ]
    assert abs(shown.index(("is $TSLA done? discuss", "Bearish")) - shown.index(("is $TSLA done? discuss", "Bullish"))) == 1
    assert all("against" in entry.detail for entry in listing.entries)
    assert {(entry.kind, entry.source, entry.confidence) for entry in listing.entries} == {("conflict", "small", None)}
    assert len(list_conflicts(small, limit=1).entries) == 1


def test_conflicts_from_before_ids_and_labels_were_recorded(small: Workspace, tmp_path: Path) -> None:
    from deltalake import write_deltalake

    other = resolve_workspace({"FINSENT_HOME": str(tmp_path / "other")})
    Path(tables.location(other, "quarantine")).mkdir(parents=True)
    old = tables.read(small, "quarantine").drop_columns(["id", "input", "label", "source_id"])
    write_deltalake(tables.location(other, "quarantine"), old)
    assert list_conflicts(other) == list_conflicts(small)
    with pytest.raises(InputError, match="was read as Bearish and as Bullish"):
        decide(other, [DONE], "accept", **WHO)
    assert decide(other, [DONE[:8]], "drop", **WHO).recorded == 1
    assert DONE not in {entry.id for entry in list_conflicts(other).entries}
    assert earlier_conflicts(other) == earlier_conflicts(small)


def test_memory_does_not_grow_with_the_texts_of_the_quarantine(home: Workspace) -> None:
    texts = [f"{number} " + "x" * 4000 for number in range(2500)]
    labels = ("Bullish", "Bearish")
    rows = [
        QuarantinedRow("a", label, number, text, CONFLICT, f"{label} against", text_id(text), "sha256:0", label)
        for number, text in enumerate(texts)
        for label in labels
    ]
    append_records(home, rows, datetime(2025, 6, 1, tzinfo=UTC))
    del rows
    for look in (
        lambda: list_conflicts(home, limit=3).found,
        lambda: len(IdLookup.load(home, [text_id(texts[0])]).contradictory) * 5000,
        lambda: len(earlier_conflicts(home)) * 2,
        lambda: quarantine_view(home, limit=3).total,
        lambda: sum(quarantine_examples(home, None, 3, 3).reasons.values()),
    ):
        assert look() == 5000  # and modules are imported
        tracemalloc.start()
        look()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6, "the texts are 20 MB"


def test_what_is_decided_on_is_listed_no_more(sampled: Workspace, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(sampled.root, tmp_path / "copy")
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "copy")})
    first, second, third = list_suspects(home, limit=3).entries
    decide(home, [first.id], "accept", **WHO)
    remaining = list_suspects(home).entries
    assert first.id not in {entry.id for entry in remaining}
    assert second == remaining[0]
    decide(home, [second.id], "fix", label=second.suggested, **WHO)
    left = list_suspects(home)
    assert (left.entries, left.from_cache) == (remaining[1:], True), "the list stays while somebody works through it"
    expected = (first.error_probability or 0.0) + (second.error_probability or 0.0)
    assert left.reviewed == Reviewed(2, 1, pytest.approx(expected))
    decide(home, [third.id], "drop", **WHO)
    assert not list_suspects(home, anew=True).from_cache
    conflict = list_conflicts(home).entries[0]
    decide(home, [conflict.id], "drop", **WHO)
    assert conflict.id not in {entry.id for entry in list_conflicts(home).entries}


def test_a_fix_and_a_drop_change_the_data_in_a_new_version(small: Workspace) -> None:
    version = tables.version(small, "tweets")
    assert version is not None
    fixed = decide(small, [MOON[:6]], "fix", label="bearish", **WHO)
    assert fixed == ReviewResult(recorded=1, decisions={"fix": 1}, waiting=0, version=version + 1)
    assert labels(small) == {MOON: "Bearish", FED: "Neutral"}
    dropped = decide(small, [FED.upper()], "drop", **WHO)
    assert (dropped.version, dropped.waiting) == (version + 2, 0)
    assert labels(small) == {MOON: "Bearish"}
    assert labels(small, version) == {MOON: "Bullish", FED: "Neutral"}
    assert data_version(small).leaks == 0
    assert [(review.text, review.who) for review in read_reviews(small)] == [
        ("$AAPL to the moon and beyond", "ada"),
        ("the fed meets on tuesday afternoon", "ada"),
    ]


def test_an_accepted_label_changes_nothing(small: Workspace) -> None:
    before = labels(small)
    assert decide(small, [MOON, FED], "accept", **WHO) == ReviewResult(2, {"accept": 2}, 0, None)
    assert labels(small) == before


def test_decisions_on_texts_that_are_not_in_the_data_wait(small: Workspace) -> None:
    absent = text_id("not seen yet")
    assert decide(small, [DONE[:8]], "fix", label="Bearish", **WHO) == ReviewResult(1, {"fix": 1}, 1, None)
    assert decide(small, [absent], "drop", **WHO) == ReviewResult(1, {"drop": 1}, 0, None)
    assert load_decisions(small) == {DONE: ReviewDecision("fix", "Bearish"), absent: ReviewDecision("drop")}


def assert_refused(home: Workspace, said: str, ids: Sequence[str], kind: Any, label: str | None = None) -> None:
    before = read_reviews(home)
    with pytest.raises(InputError, match=said):
        decide(home, ids, kind, label=label, **WHO)
    assert read_reviews(home) == before


def test_ids_that_mean_no_one_text(small: Workspace) -> None:
    assert_refused(small, "'xyz' is no id: ids are 32 hexadecimal digits", ["xyz"], "drop")
    assert_refused(small, "'' is no id", [""], "drop")
    assert_refused(small, "is no id", ["a" * 33], "drop")
    unknown = next(start for n in range(4096) if not any(i.startswith(start := f"{n:03x}") for i in known(small)))
    assert_refused(small, f"'{unknown}' begins the id of no known text", [MOON, unknown], "drop")


def known(home: Workspace) -> set[str]:
    return {*labels(home), *(text_id(text) for text in tables.read(home, "quarantine")["text"].to_pylist())}


def test_a_beginning_that_several_ids_share_is_refused(sampled: Workspace) -> None:
    assert_refused(sampled, r"'0' begins \d+ ids \(0[0-9a-f]{31}, .*…\)\. Give more of it", ["0"], "drop")


def test_what_cannot_be_accepted_is_said(small: Workspace) -> None:
    assert_refused(small, f"'{DONE}' was read as Bearish and as Bullish: say which with fix", [DONE], "accept")
    assert_refused(small, "no label 'up'. Labels: Neutral, Bullish, Bearish", [DONE], "fix", "up")
    decide(small, [MOON], "fix", label="Bearish", **WHO)
    assert_refused(small, "was fixed to Bearish, so that its own label no longer counts", [MOON], "accept")


@pytest.mark.parametrize("given", ["Bearish", "bearish", " BEARISH "])
def test_classes_in_any_case(given: str) -> None:
    assert parse_class_name(given) == "Bearish"


def filled(path: Path, change: Callable[[dict[str, str]], dict[str, str] | None]) -> Path:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | (change(row) or {}) for row in rows)
    return path


def test_a_filled_listing_is_applied_in_one_version(sampled: Workspace, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(sampled.root, tmp_path / "copy")
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "copy")})
    listing = list_suspects(home, limit=4)
    write_listing(listing, tmp_path / "review.csv")
    fixed, accepted, dropped, untouched = listing.entries
    wanted = {
        fixed.id: {"decision": "fix", "new_label": fixed.suggested, "why": "plainly"},
        accepted.id: {"decision": "Accept"},
        dropped.id: {"decision": "drop", "why": "spam"},
    }
    filled(tmp_path / "review.csv", lambda row: wanted.get(row["id"]))
    version, before = tables.version(home, "tweets"), labels(home)
    assert version is not None
    result = apply_file(home, tmp_path / "review.csv", who="ada", why="in doubt")
    assert result == ReviewResult(3, {"fix": 1, "accept": 1, "drop": 1}, 0, version + 1)
    after = {**before, fixed.id: fixed.suggested}
    del after[dropped.id]
    assert labels(home) == after
    assert {review.id: review.why for review in read_reviews(home)} == {
        fixed.id: "plainly",
        accepted.id: "in doubt",
        dropped.id: "spam",
    }
    assert untouched.id in {entry.id for entry in list_suspects(home).entries}
    assert apply_file(home, tmp_path / "review.csv", who="ada", why="in doubt") == ReviewResult(0, result.decisions, 0, None)


def test_one_wrong_row_and_none_is_recorded(small: Workspace, tmp_path: Path) -> None:
    lines = [
        "id,decision,new_label,why",
        f"{MOON},fix,Bearish,sarcasm",
        f"{FED},acept,,typing",
        f"{FED},fix,up,",
        f"{FED},fix,,no label",
        f"{FED},drop,Neutral,both",
        f"{MOON},drop,,no, yes".replace(", yes", ""),
        "nonsense,drop,,x",
        f"{FED},drop,,",
        f"{DONE},accept,,both",
    ]
    (tmp_path / "review.csv").write_text("\n".join(lines))
    with pytest.raises(InputError) as error:
        apply_file(small, tmp_path / "review.csv", who="ada")
    said = str(error.value).splitlines()
    assert said[0].startswith("8 of 9 decisions in ")
    assert said[0].endswith("are wrong; none was recorded:")
    expected = [
        "line 3: decision 'acept' is none of accept, fix, drop",
        "line 4: there is no label 'up'",
        "line 5: a fix needs the right label, one of Neutral, Bullish, Bearish, and None is none",
        "line 6: a label belongs to the decision fix, and 'Neutral' was given with drop",
        f"line 7: '{MOON}' is decided twice in this file, and differently",
        "line 8: 'nonsense' is no id",
        "line 9: column 'why' is empty, and no --why was given",
        f"line 10: '{DONE}' was read as Bearish and as Bullish",
    ]
    assert [line.strip().startswith(start) for line, start in zip(said[1:], expected, strict=True)] == [True] * 8
    assert read_reviews(small) == []
    (tmp_path / "review.csv").write_text(lines[0] + "\n" + f"{MOON},,,\n")
    with pytest.raises(InputError, match="has no decision: fill the column 'decision' with accept, fix, drop"):
        apply_file(small, tmp_path / "review.csv", who="ada")


def test_a_crash_before_the_data_changed_is_made_up_for_by_the_rerun(small: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        """Stands for a kill."""

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(module, "apply_decisions", crash)
        with pytest.raises(Crash):
            decide(small, [MOON], "fix", label="Bearish", **WHO)
    assert load_decisions(small) == {MOON: ReviewDecision("fix", "Bearish")}
    assert labels(small)[MOON] == "Bullish"
    result = decide(small, [MOON], "fix", label="Bearish", **WHO)
    assert (result.recorded, result.version) == (0, tables.version(small, "tweets"))
    assert labels(small)[MOON] == "Bearish"
    assert len(read_reviews(small)) == 1
