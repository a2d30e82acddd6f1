"""`score(files, out=...)`: one answer for each row of the files, in their order, whatever becomes of the rows."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from finsent.config import Config, InboxSource
from finsent.data import file_answers, tables
from finsent.errors import InputError
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.steps.context import Context, make_context
from finsent.steps.score import score
from tests.champions import crown

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]
TEXT = "$AAPL to the moon, buying calls"
IDS = """tweet_id,body,likes
1800000000000000001,"$AAPL to the moon, buying calls",3
1800000000000000002,"RT @ada: $AAPL to the moon, buying calls",0
1800000000000000001,"$AAPL to the moon, buying calls",3
1800000000000000003,"",1
1800000000000000001,another text of that id,1
cut off
1800000000000000004,$TSLA will crash,1
,$TSLA will crash,1
"""


@pytest.fixture
def context(mlflow_home, tiny_config: Config, make_adapter) -> Context:
    registry = Registry(mlflow_home, tiny_config.registered_model)
    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        version = registry.register(make_adapter(0), run_id=run_id, profile=tiny_config.profile)
    crown(registry, version)
    return make_context(tiny_config, mlflow_home)


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def ask(context: Context, out: Path, *files: str, **options: Any) -> list[dict[str, Any]]:
    sources = tuple(InboxSource(uri=file, **options) for file in files)
    report = score(context, files=sources, out=out, progress=False)
    rows: list[dict[str, Any]] = (
        parquet.read_table(out).to_pylist() if out.suffix == ".parquet" else [*map(json.loads, out.read_text().splitlines())]
    )
    assert report.answers is not None
    assert (report.answers.rows, report.answers.unanswered) == (len(rows), sum(row["label"] is None for row in rows))
    return rows


def test_each_row_has_its_answer_in_the_files_own_order(context: Context, tmp_path: Path) -> None:
    home, day = context.workspace, written(tmp_path / "day.csv", IDS)
    rows = ask(context, tmp_path / "a.parquet", day, id="tweet_id", text="body")
    own = [1800000000000000000 + number for number in (1, 2, 1, 3, 1)]
    assert [row["tweet_id"] for row in rows] == [*map(str, own), None, "1800000000000000004", None]
    assert [row["row"] for row in rows] == [*range(1, 9)]
    assert list(rows[0])[:4] == ["row", "tweet_id", "text", "label"]
    assert [row["text"] for row in rows[:2]] == [TEXT, f"RT @ada: {TEXT}"]
    assert [row["reason"] and row["reason"].partition(":")[0] for row in rows] == [
        *(None, None, None, "empty", "id reused", "malformed row", None, None)
    ]  # fmt: skip
    stored = {row["id"]: row for row in tables.read(home, "predictions").to_pylist()}
    assert len(stored) == tables.read(home, "predictions").num_rows == 4
    for row in rows:
        if row["reason"] is None:
            predicted = stored.get(row["tweet_id"]) or stored[next(iter(stored.keys() - {r["tweet_id"] for r in rows}))]
            for name in ("label", "confidence", "p_neutral", "p_bullish", "p_bearish", "abstained", "model_version"):
                assert row[name] == predicted[name]
        else:
            assert (row["label"], row["confidence"], row["abstained"], row["model_version"]) == (None, None, True, None)
    assert rows[0] | {"row": 3} == rows[2]

    # the texts again, as two files without ids and one with numbers: scored are those alone that are new
    lines = [{"text": text} for text in (TEXT, f"RT @bob: {TEXT}", "fed meets on tuesday", TEXT)]
    plain = written(tmp_path / "plain.jsonl", "\n".join(map(json.dumps, lines)))
    parquet.write_table(pa.table({"id": [1800000000000000004, None], "text": ["$TSLA will crash", "7"]}), tmp_path / "n.parquet")
    before = tables.read(home, "predictions").num_rows
    rows = ask(context, tmp_path / "b.jsonl", plain, str(tmp_path / "n.parquet"))
    assert [(Path(row["file"]).name, row["row"], row["id"]) for row in rows] == [
        *(("plain.jsonl", number, None) for number in range(1, 5)), ("n.parquet", 1, 1800000000000000004), ("n.parquet", 2, None)
    ]  # fmt: skip
    assert rows[0]["confidence"] == rows[1]["confidence"] == rows[3]["confidence"]
    assert rows[4]["scored_at"] == stored["1800000000000000004"]["scored_at"].isoformat()
    assert tables.read(home, "predictions").num_rows == before + 3

    with pytest.raises(InputError, match="is there already"):
        ask(context, tmp_path / "b.jsonl", written(tmp_path / "new.csv", "text\nnever received\n"))
    assert "never received" not in tables.read(home, "inbox")["text"].to_pylist()


def test_killed_while_the_answers_are_written_the_next_run_is_complete(context: Context, tmp_path: Path, monkeypatch) -> None:
    file = written(tmp_path / "t.csv", "text,text_id\n" + "".join(f"firm {i} beats estimates,x{i}\n" for i in range(9)))
    monkeypatch.setattr(file_answers, "_ROWS", 4)
    real, calls = file_answers.pc.fill_null, []

    def killed(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(file_answers.pc, "fill_null", killed)
        with pytest.raises(KeyboardInterrupt):
            ask(context, tmp_path / "o.parquet", file)
    assert not (tmp_path / "o.parquet").exists()
    rows = ask(context, tmp_path / "o.parquet", file)
    assert [row["text"] for row in rows] == [f"firm {i} beats estimates" for i in range(9)]
    assert {row["reason"] for row in rows} == {None}
    assert tables.read(context.workspace, "predictions").num_rows == 9
