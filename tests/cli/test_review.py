"""`finsent review` as a person and as a script use it."""

import csv
import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finsent.steps.context import make_context
from finsent.text import text_id

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent

ROWS = [("$AAPL to the moon", "Bullish"), ("the fed meets", "Neutral"), ("$TSLA?", "Bullish"), ("$TSLA?", "Bearish")]
MOON, FED, TSLA = (text_id(text) for text in ("$AAPL to the moon", "the fed meets", "$TSLA?"))


@pytest.fixture
def at(tmp_path: Path, finsent: "Finsent") -> tuple[str, str]:
    """Options of a home with two tweets and a contradiction."""
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    options = ("--home", str(tmp_path / "home"))
    assert finsent("ingest", tmp_path / "a.jsonl", "--no-report", *options).code == 0
    return options


def test_decisions_say_what_they_did(at: tuple[str, str], finsent: "Finsent") -> None:
    fixed = finsent("review", "fix", MOON[:8], "bearish", "--why", "sarcasm", "--who", "ada", *at)
    assert fixed.code == 0
    assert "Decided: 1 fix (1 recorded now)\nData version 2 has them." in fixed.out
    assert finsent("review", "drop", FED, "--why", "dull", *at, "--json").json() == {
        "recorded": 1,
        "decisions": {"drop": 1},
        "waiting": 0,
        "version": 3,
    }
    said = finsent("review", "accept", "ab" * 16, "--why", "known well", *at)
    assert "The data did not have to change.\n1 of these texts are not in the data: ingest their source" in said.out
    decisions = finsent("review", "decisions", *at, "--json").json()["decisions"]
    assert [(item["id"], item["decision"], item["why"], item["who"], item["text"]) for item in decisions] == [
        (MOON, {"kind": "fix", "label": "Bearish"}, "sarcasm", "ada", "$AAPL to the moon"),
        (FED, {"kind": "drop", "label": None}, "dull", getpass.getuser(), "the fed meets"),
        ("ab" * 16, {"kind": "accept", "label": None}, "known well", getpass.getuser(), None),
    ]
    assert f"ada  {MOON[:8]}  fix Bearish  sarcasm" in " ".join(finsent("review", "decisions", *at).out.split("\n")).replace(
        "   ", "  "
    )


def test_conflicts_are_listed_filled_and_applied(at: tuple[str, str], finsent: "Finsent", tmp_path: Path) -> None:
    shown = finsent("review", "list", "--conflicts", *at)
    assert shown.out.startswith("2 sides of contradictions that nobody has decided on")
    assert "Bullish in a row 3, '$TSLA?' against Bearish in a row 4" in shown.out
    out = tmp_path / "conflicts.csv"
    listed = finsent("review", "list", "--conflicts", "--out", out, *at, "--json").json()
    assert (listed["found"], listed["file"]) == (2, str(out))
    with out.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["id"], row["label"], row["kind"]) for row in rows} == {
        (TSLA, "Bullish", "conflict"),
        (TSLA, "Bearish", "conflict"),
    }
    rows[0] |= {"decision": "fix", "new_label": "Bullish"}
    with out.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    refused = finsent("review", "apply", out, *at)
    assert (refused.code, refused.out) == (2, "")
    assert "line 2: column 'why' is empty, and no --why was given" in refused.err
    applied = finsent("review", "apply", out, "--why", "asked the desk", *at)
    assert applied.code == 0
    assert "1 of these texts are not in the data" in applied.out
    assert finsent("review", "list", "--conflicts", *at).out.strip() == "0 sides of contradictions that nobody has decided on"
    none = tmp_path / "none.csv"
    assert f"{none} holds the heading alone" in finsent("review", "list", "--conflicts", "--out", none, *at).out


def test_suspects_on_the_screen_and_in_a_file(finsent: "Finsent", tmp_path: Path) -> None:
    from finsent.config import load_config
    from finsent.data.sample import sample_sources
    from finsent.steps.ingest import ingest
    from finsent.workspace import resolve_workspace

    ingest(make_context(load_config(), resolve_workspace({"FINSENT_HOME": str(tmp_path / "home")})), sample_sources(1)[:1])
    at = ("--home", str(tmp_path / "home"))
    shown = finsent("review", "list", "--limit", 2, *at)
    assert "labels are doubtful" in shown.out
    assert "The first 2; all of them: finsent review list --out review.csv" in shown.out
    assert f"Decide on them one by one: finsent review decide --home {tmp_path / 'home'}" in shown.out
    assert "wrong labels expected" in shown.out
    assert "An estimate, rather too high than too low." in shown.out
    listed = finsent("review", "list", "--out", tmp_path / "review.csv", *at)
    assert f"Then: finsent review apply {tmp_path / 'review.csv'}" in listed.out
    again = finsent("review", "list", "--out", tmp_path / "review.csv", *at)
    assert again.code == 2
    assert "is there already" in again.err
    found = finsent("review", "list", *at, "--json").json()
    assert len(found["entries"]) == found["found"]
    with (tmp_path / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [entry["id"] for entry in found["entries"]]


def test_wrong_ids_and_missing_reasons_are_exit_code_2(at: tuple[str, str], finsent: "Finsent") -> None:
    for arguments, said in (
        (("drop", "nonsense", "--why", "x"), "'nonsense' is no id"),
        (("drop", MOON), "Missing option '--why'"),
        (("fix", MOON, "--why", "x"), "Missing argument 'LABEL'"),
        (("fix", MOON, "up", "--why", "x"), "there is no label 'up'"),
        (("list", "--limit", "0"), "0 is not in the range x>=1"),
        (("list", "--conflicts", "--test"), "conflicts are in no split yet"),
        (("list", "--conflicts", "--anew"), "--anew goes with the search for wrong labels"),
        (("decide", "--conflicts", "--least-share", "0.5"), "--least-share goes with the search for wrong labels"),
    ):
        refused = finsent("review", *arguments, *at)
        assert (refused.code, refused.out) == (2, "")
        assert said in refused.err
    assert finsent("review", "decisions", *at, "--json").json() == {"decisions": []}
