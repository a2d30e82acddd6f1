"""The commands at work on a real home: what scripts read of their JSON, what people read, and the exit codes."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.models.manifest import verify_manifest
from finsent.registry import audit_log
from finsent.registry.client import Registry
from finsent.text import text_hash

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent
    from tests.conftest import Served


def test_evaluate_json_has_what_is_promised(finsent: "Finsent", served: "Served", tmp_path: Path) -> None:
    file = tmp_path / "labelled.csv"
    rows = [f"firm {i} {'beats' if i % 2 else 'misses'} estimates,{'Bullish' if i % 2 else 'Bearish'}" for i in range(20)]
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    said = finsent("evaluate", served.version, "--data", file, *served.options, "--json")
    found = said.json()
    assert said.code == 0
    assert found["n"] == 20
    assert set(found["per_class"]) == {"Neutral", "Bullish", "Bearish"}
    assert 0 <= found["accuracy"] <= 1
    assert 0 <= found["macro_f1"] <= 1
    assert found["intervals"]["accuracy"]["low"] <= found["accuracy"] <= found["intervals"]["accuracy"]["high"]
    assert found["model_version"] == served.version


def test_status_shows_what_there_is(finsent: "Finsent", served: "Served") -> None:
    found = finsent("status", *served.options, "--json").json()
    assert found["data"]["version"] == tables.version(served.home, "tweets")
    assert found["data"]["leaks"] == 0
    assert found["versions"]["champion"]["version"] == served.version
    assert 0 < found["versions"]["champion"]["accuracy"] < 1
    said = finsent("status", *served.options)
    assert said.code == 0
    assert "champion" in said.out
    assert "0 duplicate pairs across splits" in said.out


def test_status_of_nothing_makes_nothing(finsent: "Finsent", tmp_path: Path) -> None:
    said = finsent("status", "--home", tmp_path / "new")
    assert said.code == 0
    assert "There is no data yet" in said.out or "there is no data yet" in said.out
    assert "no champion yet" in said.out
    assert not (tmp_path / "new").exists()


def test_predict_answers_with_label_and_probabilities(
    finsent: "Finsent", served: "Served", monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "$AAPL to the moon! 🚀 Great earnings, buying more calls!"
    found = finsent("predict", text, *served.options, "--json").json()
    (prediction,) = found["predictions"]
    assert found["model_version"] == served.version
    assert prediction["text"] == text
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)
    assert prediction["label"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
    assert prediction["confidence"] == max(prediction["probabilities"].values())

    piped = io.TextIOWrapper(io.BytesIO("$AAPL up \ud83d\n\n".encode("utf-8", "surrogatepass") + b"\xff\xfe caf\xe9\n"))
    monkeypatch.setattr("sys.stdin", piped)
    mixed = finsent("predict", "-", text, "", *served.options, "--json").json()["predictions"]
    assert [row["label"] for row in mixed] == [None, None, None, prediction["label"], None]
    reasons = [str(row["reason"]).partition(":")[0] for row in mixed]
    assert reasons == ["bad encoding", "empty", "bad encoding", "None", "empty"]
    said = finsent("predict", text, *served.options)
    assert text in said.out
    assert "bearish  neutral  bullish" in said.out

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b" first line\r\n\nsecond\rline\n\n")))
    found = finsent("predict", "-", *served.options, "--json").json()
    assert [row["text"] for row in found["predictions"]] == [" first line", "", "second\rline", ""]


def test_predict_wants_text(finsent: "Finsent", served: "Served") -> None:
    said = finsent("predict", "  ", *served.options)
    assert said.code == 2
    assert "every text is empty" in said.err


def test_score_json_and_a_second_run_that_scores_nothing(finsent: "Finsent", served: "Served", tmp_path: Path) -> None:
    before = finsent("status", *served.options, "--json").json()["scoring"]
    file = tmp_path / "new.csv"
    file.write_text('text\nfirm one beats estimates\nfirm two misses estimates\n""\n', encoding="utf-8")
    received = finsent("ingest", "--inbox", file, *served.options, "--json").json()
    assert (received["read"], received["received"], received["quarantined"]) == (3, 2, 1)
    first = finsent("score", *served.options, "--json").json()
    assert (first["scored"], first["skipped"]) == (before["waiting"] + 2, before["predictions"])
    assert first["model_version"] == served.version
    out = tmp_path / "answers.jsonl"
    second = finsent("score", file, "--out", out, *served.options, "--json").json()
    assert (second["scored"], second["skipped"]) == (0, before["predictions"] + first["scored"])
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert second["answers"] == {"path": str(out), "rows": 3, "unanswered": 1}
    assert [(row["row"], row["text"], row["reason"]) for row in answers] == [
        (1, "firm one beats estimates", None),
        (2, "firm two misses estimates", None),
        (3, "", "empty: no characters"),
    ]
    listed = finsent("predictions", "--since", "1d", "--limit", "1000", *served.options, "--json").json()
    assert len(listed["predictions"]) == before["predictions"] + first["scored"]
    assert {row["text"]: row["confidence"] for row in listed["predictions"]}[answers[0]["text"]] == answers[0]["confidence"]
    again = finsent("score", file, "--out", out, *served.options)
    assert (again.code, "is there already" in again.err) == (2, True)
    assert "and none is given" in finsent("score", "--out", tmp_path / "o.csv", *served.options).err
    said = finsent("score", *served.options).out
    assert "done before" in said
    assert f"{served.home.tables_url}/predictions" in said
    after = finsent("status", *served.options, "--json").json()["scoring"]
    assert after == {"inbox": before["inbox"] + 2, "waiting": 0, "predictions": before["predictions"] + first["scored"]}


def test_what_an_earlier_champion_scored_is_scored_again_on_request_alone(finsent: "Finsent", served: "Served") -> None:
    finsent("score", *served.options)
    now = datetime.now(UTC)
    received = {"id": "earlier", "text": "firm three beats estimates", "received_at": now}
    theirs = {"id": "earlier", "text_hash": text_hash(received["text"]), "scored_at": now}
    theirs |= {"model_name": "finsent", "model_version": "0"}
    for table, row in (("inbox", received), ("predictions", theirs)):
        tables.append(served.home, table, pa.Table.from_pylist([row], schema=SCHEMAS[table]))
    assert finsent("score", *served.options, "--json").json()["scored"] == 0
    wrong = finsent("score", *served.options, "--backfill", "30 d")
    assert (wrong.code, "none, all, or a number of days such as 30d" in wrong.err) == (2, True)
    assert finsent("score", *served.options, "--backfill", "30d", "--json").json()["scored"] == 1
    assert finsent("score", *served.options, "--backfill", "all", "--json").json()["scored"] == 0


def test_score_reads_the_configured_sources_and_status_shows_what_it_could_not(
    finsent: "Finsent", served: "Served", tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.csv").touch()
    (tmp_path / "in" / "a.csv").write_text('id,text\n1,""\n', encoding="utf-8")
    sources = ("--set", f"scoring.sources=[{{uri: {tmp_path}/in, name: desk}}]", "--set", "scoring.settle_seconds=0")
    found = finsent("score", *served.options, *sources, "--json").json()
    (desk,) = found["sources"]
    assert (desk["source"], desk["files"], desk["read"], desk["quarantined"], found["quarantined"]) == ("desk", 1, 1, 1, 1)
    shown = finsent("score", *served.options, *sources).out
    assert "Not read into the inbox (1)" in shown
    assert "empty.csv' is empty" in shown
    status = finsent("status", *served.options, *sources, "--json").json()
    assert [(fault["state"], fault["uri"]) for fault in status["inbox_faults"]] == [("set aside", f"{tmp_path}/in/empty.csv")]
    shown = finsent("status", *served.options).out
    assert "is empty" in shown
    assert "its source is not in this command's configuration" in " ".join(shown.split())
    (tmp_path / "in" / "empty.csv").unlink()
    said = finsent("score", *served.options, *sources, "--text", "body")
    assert (said.code, said.err.splitlines()[-1].startswith("error: --text 'body' needs a FILE")) == (2, True)
    finsent("score", *served.options, *sources)
    assert finsent("status", *served.options, *sources, "--json").json()["inbox_faults"] == []


def test_monitor_says_what_to_do_and_why(finsent: "Finsent", served: "Served") -> None:
    found = finsent("monitor", *served.options, "--json").json()
    assert found["decision"] in {"retrain", "skip"}
    assert found["reasons"]
    assert finsent("monitor", *served.options).out.startswith(f"Decision: {found['decision']}")


def test_a_refused_promotion_exits_with_1_and_says_why(finsent: "Finsent", served: "Served", tmp_path: Path) -> None:
    """The same adapter again, as another version that nobody has evaluated."""
    exported = tmp_path / "adapter"
    assert finsent("export", exported, *served.options).code == 0
    imported = finsent("import", exported, "--no-evaluate", *served.options, "--json").json()
    said = finsent("promote", "--version", imported["model_version"], *served.options, "--json")
    assert said.code == 1
    assert said.json()["decision"] == "refused"
    assert any("no evidence" in reason for reason in said.json()["reasons"])
    assert said.json()["champion_after"] == served.version
    plain = finsent("promote", "--version", imported["model_version"], *served.options)
    assert plain.code == 1
    assert plain.out.startswith(f"REFUSED: version {imported['model_version']} is not promoted; version {served.version} stays")


def test_an_exported_adapter_is_whole_has_its_card_and_comes_back_the_same(
    finsent: "Finsent", served: "Served", tmp_path: Path
) -> None:
    exported = tmp_path / "out" / "adapter"
    found = finsent("export", exported, "--version", f"0{served.version}", *served.options, "--json").json()
    assert (found["folder"], found["model_version"]) == (str(exported), served.version)
    manifest = verify_manifest(exported)
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "accuracy" in card.lower()
    assert "pipeline_tag: text-classification" in card
    again = finsent("export", exported, *served.options)
    assert again.code == 2
    assert "not an empty folder" in again.err
    version = finsent("import", exported, "--no-evaluate", *served.options, "--json").json()["model_version"]
    text = "firm one beats estimates"
    answers = [finsent("predict", text, *served.options, *more, "--json").json() for more in ((), ("--version", f"0{version}"))]
    assert answers[1]["model_version"] == version
    assert answers[0]["predictions"] == answers[1]["predictions"]
    assert manifest.base_name == "embedded"


def test_a_plain_peft_adapter_is_taken_in(finsent: "Finsent", served: "Served", tmp_path: Path) -> None:
    exported, plain = tmp_path / "adapter", tmp_path / "plain"
    assert finsent("export", exported, *served.options).code == 0
    plain.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json"):
        (plain / name).write_bytes((exported / name).read_bytes())
    imported = finsent("import", plain, "--no-evaluate", "--labels", "Neutral,Bullish,Bearish", *served.options, "--json").json()
    text = "firm one beats estimates"
    champion, taken = (
        finsent("predict", text, *served.options, *more, "--json").json()["predictions"][0]["probabilities"]
        for more in ((), ("--version", imported["model_version"]))
    )
    # the manifest of a plain adapter knows no temperature, so only the order of the classes must agree
    assert sorted(champion, key=champion.get) == sorted(taken, key=taken.get)

    probe = json.loads(
        (Registry(served.home, "finsent").adapter_path(imported["model_version"]) / "probe.json").read_text(encoding="utf-8")
    )
    assert len(probe["texts"]) == len(probe["logits"]) == 8


@pytest.mark.usefixtures("proof_in_process")
def test_an_import_is_evaluated_and_gated_and_moves_nothing(finsent: "Finsent", served: "Served", tmp_path: Path) -> None:
    exported = tmp_path / "adapter"
    assert finsent("export", exported, *served.options).code == 0
    before = audit_log.read(served.home.audit_log)
    said = finsent("import", exported, *served.options, "--json")
    found = said.json()
    assert said.code == 0
    assert found["evaluated"]
    assert found["not_evaluated_because"] is None
    assert 0 < found["metrics"]["accuracy"] < 1
    assert found["gate"]["decision"] == "refuse"  # so small a model
    assert any("TF-IDF" in reason for reason in found["gate"]["reasons"])
    assert finsent("status", *served.options, "--json").json()["versions"]["champion"]["version"] == served.version
    added = audit_log.read(served.home.audit_log)[len(before) :]
    assert [entry["action"] for entry in added] == ["evaluate"]  # a look at the test rows is counted, and nothing is decided
    decided = finsent("promote", "--version", found["model_version"], *served.options, "--json").json()
    assert decided["reasons"] == found["gate"]["reasons"]


def test_an_import_into_a_home_without_data_says_that_it_was_not_evaluated(
    finsent: "Finsent", served: "Served", tmp_path: Path
) -> None:
    exported = tmp_path / "adapter"
    assert finsent("export", exported, *served.options).code == 0
    said = finsent("import", exported, *served.options, "--home", tmp_path / "new")
    assert said.code == 0
    assert "Registered as version 1" in said.out
    assert (
        "Not evaluated: there is no data in this home yet: run `finsent ingest`, then `finsent evaluate --version 1`" in said.out
    )


def test_a_merged_export_says_how_near_it_is(finsent: "Finsent", served: "Served", tmp_path: Path) -> None:
    said = finsent("export", tmp_path / "model", "--merged", "--precision", "float32", *served.options)
    assert said.code == 0
    assert f"Version {served.version} exported, merged in float32" in said.out
    assert "100% of labels equal" in said.out
    assert (tmp_path / "model" / "config.json").is_file()
    said = finsent("export", tmp_path / "adapter", "--precision", "float16", *served.options)
    assert said.code == 2
    assert "--precision 'float16' is for --merged" in said.err
    assert not (tmp_path / "adapter").exists()
