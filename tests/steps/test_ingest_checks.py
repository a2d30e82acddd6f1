"""What ingestion asks of sources: labels that make sense, schemas that stay, dates that are read, tables that are whole."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from finsent.config import Config, Source, load_config
from finsent.data import tables
from finsent.data.dataset import read_report
from finsent.data.ingest_report import IngestReport
from finsent.data.leakage import audit_data
from finsent.data.splits import SPLIT_CODES, split_of_group, split_rule
from finsent.errors import CheckFailed, InputError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.text import text_id
from finsent.workspace import Workspace
from tests.steps.ingestion import CONFIG, give, stored

SPOKEN = {"2": "the fed meets on day {}", "1": "breakout, buying calls {}", "0": "weak, puts and a crash {}"}
TFNS = {"0": "Bearish", "1": "Bullish", "2": "Neutral"}
REFERENCE = {"0": "Neutral", "1": "Bullish", "2": "Bearish"}


def test_labels_mapped_as_another_dataset_has_them_are_caught(home: Workspace, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": text.format(number), "label": int(value)} for number in range(60) for value, text in SPOKEN.items()
    ]
    with pytest.raises(CheckFailed, match=r"labels look mapped wrongly.*0=Bearish,1=Bullish,2=Neutral' would fit"):
        give(home, tmp_path / "a.jsonl", rows, labels=REFERENCE)
    assert tables.version(home, "tweets") is None
    accepted = give(home, tmp_path / "a.jsonl", rows, load_config(overrides=["data.check_labels=false"]), labels=REFERENCE)
    assert accepted.accepted > 0


def test_right_labels_pass(home: Workspace, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": text.format(number), "label": int(value)} for number in range(60) for value, text in SPOKEN.items()
    ]
    assert give(home, tmp_path / "a.jsonl", rows, labels=TFNS).accepted > 0


def test_a_new_file_of_a_known_folder_is_checked_by_itself(home: Workspace, tmp_path: Path) -> None:
    folder, labels = tmp_path / "days", {"up": "Bullish", "down": "Bearish"}
    folder.mkdir()
    day = "text,label\n" + "".join(f"{text} is the news of the day,{{}}\n" for text in ("gold", "oil", "tin"))
    (folder / "monday.csv").write_text(day.format("up", "up", "down"))
    ingest(make_context(CONFIG, home), [Source(uri=str(folder), labels=labels)])
    (folder / "tuesday.csv").write_text(day.replace("news", "talk").format("up", "positive", "negative"))
    with pytest.raises(InputError, match=r"2 of 3 rows .*--label-map up=Bullish,positive=Bullish,negative=Bearish"):
        ingest(make_context(CONFIG, home), [Source(uri=str(folder), labels=labels)])
    (folder / "tuesday.csv").write_text(day.replace("news", "talk").format("up", "up", "up"))
    assert ingest(make_context(CONFIG, home), [Source(uri=str(folder), labels=labels)]).duplicates == 3


def test_none_is_a_label_where_the_map_says_so(home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[dict[str, object]] = [{"text": "calm today", "label": "none"}, {"text": "gold rises", "label": "pos"}]
    labels = {"none": "Neutral", "pos": "Bullish"}
    assert give(home, tmp_path / "a.jsonl", rows, labels=labels).accepted == 2
    assert "nowhere" not in caplog.text


def csv_source(path: Path, text: str) -> Source:
    path.write_text(text)
    return Source(uri=str(path), name="desk")


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ("tweet,label,id\n$SPY flat,Neutral,1\n", r"- text\n  \+ tweet    \('text' renamed\?\)"),
        ("text,label\n$SPY flat,Neutral\n", r"columns\n  - id"),
        (
            "text,label,id\n$SPY flat,Strong Buy,1\n$SPY off,Bearish,2\n",
            r"label values\n.*\+ Strong Buy    \(not known\)",
        ),
    ],
)
def test_a_source_that_is_not_what_it_was_stops_before_writing(home: Workspace, tmp_path: Path, later: str, told: str) -> None:
    ingest(
        make_context(CONFIG, home), [csv_source(tmp_path / "a.csv", "text,label,id\n$AAPL up,Bullish,1\nfed meets,Neutral,2\n")]
    )
    assert read_report(home, 1)["schemas"]["desk"]["columns"] == ["text", "label", "id"]
    with pytest.raises(CheckFailed, match=rf"(?s)source 'desk': its schema changed.*{told}.*data.check_schema=false"):
        ingest(make_context(CONFIG, home), [csv_source(tmp_path / "b.csv", later)])
    assert len(stored(home)) == 2
    assert tables.version(home, "quarantine") is None


def test_a_known_source_with_other_labels_is_told_the_map_and_the_way_back(home: Workspace, tmp_path: Path) -> None:
    context = make_context(CONFIG, home)
    ingest(context, [csv_source(tmp_path / "a.csv", "text,label\n$AAPL up,Bullish\nfed meets,Neutral\n")])
    back = "finsent data remove desk --why"
    partly = csv_source(tmp_path / "b.csv", "text,label\n$SPY flat,Neutral\n$SPY off,negative\n$SPY dull,meh\n")
    with pytest.raises(CheckFailed, match=rf"(?s)--label-map Neutral=Neutral,negative=Bearish,meh=CLASS.*{back}"):
        ingest(context, [partly])
    wholly = csv_source(tmp_path / "c.csv", "text,label\n$SPY on,buy\n$SPY off,sell\n")
    with pytest.raises(InputError, match=rf"--label-map buy=Bullish,sell=Bearish.*were 'Bullish', 'Neutral'.*{back}"):
        ingest(context, [wholly])
    assert ingest(context, [wholly.model_copy(update={"labels": {"buy": "Bullish", "sell": "Bearish"}})]).accepted == 2


def test_what_is_accepted_once_is_the_new_normal(home: Workspace, tmp_path: Path) -> None:
    once = load_config(overrides=["data.check_schema=false"])
    ingest(make_context(CONFIG, home), [csv_source(tmp_path / "a.csv", "text,label,id\n$AAPL up,Bullish,1\n")])
    ingest(make_context(once, home), [csv_source(tmp_path / "b.csv", "text,label\n$SPY flat,Neutral\n")])
    ingest(make_context(CONFIG, home), [csv_source(tmp_path / "c.csv", "text,label\n$QQQ is down,Bearish\n")])
    assert len(stored(home)) == 3


def test_new_columns_known_labels_and_a_stray_label_do_not_stop(home: Workspace, tmp_path: Path) -> None:
    ingest(make_context(CONFIG, home), [csv_source(tmp_path / "a.csv", "text,label\n$AAPL up,Bullish\n")])
    many = "".join(f"the fed meets on day {number},Bearish,x\n" for number in range(400))
    report = ingest(make_context(CONFIG, home), [csv_source(tmp_path / "b.csv", f"text,label,lang\n{many}what,Typo,x\n")])
    assert report.reasons == {"unknown label": 1}
    missing = Source(uri=str(tmp_path / "b.csv"), name="other", text="tweet")
    with pytest.raises(InputError, match="no column 'tweet'"):
        ingest(make_context(CONFIG, home), [missing])


def test_each_file_of_a_folder_is_remembered_as_it_is(home: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "day"
    folder.mkdir()
    (folder / "x.csv").write_text("text,label,created_at\n$AAPL up,Bullish,2025-01-01\n")
    (folder / "y.csv").write_text("text,label\nputs printing,Bearish\n")
    ingest(make_context(CONFIG, home), [Source(uri=str(folder))])
    schemas = read_report(home, 1)["schemas"]
    assert {name: schema["columns"][2:] for name, schema in schemas.items()} == {"x": ["created_at"], "y": []}
    assert {name: schema["labels"] for name, schema in schemas.items()} == {"x": ["Bullish"], "y": ["Bearish"]}
    (folder / "y.csv").write_text("text,label\nputs are printing money,Bearish\n")
    assert ingest(make_context(CONFIG, home), [Source(uri=str(folder / "y.csv"))]).accepted == 1
    (folder / "x.csv").write_text("text,label\n$AAPL up again today,Bullish\n")
    with pytest.raises(CheckFailed, match=r"(?s)source 'x': its schema changed.*- created_at"):
        ingest(make_context(CONFIG, home), [Source(uri=str(folder / "?.csv"))])


def test_sources_of_one_name_are_one(home: Workspace, tmp_path: Path) -> None:
    both = [
        csv_source(tmp_path / "a.csv", "text,label,lang\n$AAPL up,Bullish,en\n"),
        csv_source(tmp_path / "b.csv", "text,label,id\nputs printing,Bearish,7\n"),
    ]
    ingest(make_context(CONFIG, home), both)
    assert read_report(home, 1)["schemas"]["desk"]["columns"] == ["text", "label", "lang", "id"]
    assert ingest(make_context(CONFIG, home), both[::-1]).duplicates == 2


def some_labelled(path: Path, day: int, **rows: int) -> Source:
    lines = [f"day {day} of {label} and note {number},{label}" for label, n in rows.items() for number in range(n)]
    return csv_source(path, "\n".join(["text,label", *lines, ""]))


def test_a_stray_label_opens_no_door_for_many(home: Workspace, tmp_path: Path) -> None:
    for day, stray in enumerate((0, 1, 1)):
        ingest(make_context(CONFIG, home), [some_labelled(tmp_path / "a.csv", day, Bullish=300, Hold=stray)])
    with pytest.raises(CheckFailed, match=r"\+ Hold    \(not known\)"):
        ingest(make_context(CONFIG, home), [some_labelled(tmp_path / "a.csv", 4, Bullish=100, Hold=100)])
    once = load_config(overrides=["data.check_schema=false"])
    assert ingest(make_context(once, home), [some_labelled(tmp_path / "a.csv", 5, Bullish=300, Hold=10)]).reasons == {
        "unknown label": 10
    }
    for day, held in ((6, 1), (7, 10)):  # what was accepted stays so, however few come
        assert (
            ingest(make_context(CONFIG, home), [some_labelled(tmp_path / "a.csv", day, Bullish=300, Hold=held)]).quarantined
            == held
        )


def test_a_new_source_can_be_read_again(home: Workspace, tmp_path: Path) -> None:
    for day in (1, 1, 2):
        source = some_labelled(tmp_path / "a.csv", day, Bullish=50, Hold=5)
        config = CONFIG if tables.version(home, "tweets") is not None else load_config(overrides=["data.check_labels=false"])
        assert ingest(make_context(config, home), [source]).reasons == {"unknown label": 5}


def test_labels_that_are_to_mean_something_else_stop(home: Workspace, tmp_path: Path) -> None:
    def day(number: int, labels: dict[str, str], values: str, config: Config = CONFIG) -> IngestReport:
        rows: list[dict[str, object]] = [
            {"text": f"{'abcde'[int(v)] * 9} {'vwxyz'[number] * 9}", "label": int(v)} for v in values
        ]
        return give(home, tmp_path / "desk.jsonl", rows, config, labels=labels)

    day(1, TFNS, "012")
    day(2, TFNS, "12")
    with pytest.raises(CheckFailed, match=r"(?s)read as\n  0: Bearish -> Neutral\n  2: Neutral -> Bearish\n.*check_schema=false"):
        day(3, REFERENCE, "012")
    with pytest.raises(CheckFailed, match="0: Bearish -> not understood"):
        day(3, {"1": "Bullish", "2": "Neutral"}, "012")
    assert day(3, REFERENCE, "012", load_config(overrides=["data.check_schema=false"])).accepted == 3
    assert day(4, REFERENCE, "012").accepted == 3


LONG = "loading up on september calls this morning because the chart looks ready and volume is finally back"


def test_a_cut_copy_that_would_tie_two_splits_stays_out(home: Workspace, tmp_path: Path) -> None:
    longer = next(
        f"{LONG} {end}"
        for end in ("and then the sector went up", "and so did everything else", "while rates fell", "for once", "at last")
        if split_of(f"{LONG} {end} over there in the east") != split_of(LONG)
    )
    longer += " over there in the east"
    give(home, tmp_path / "a.jsonl", [{"text": LONG, "label": "Bullish"}, {"text": longer, "label": "Bullish"}])
    assert len({row["split"] for row in stored(home).values()}) == 2
    report = give(home, tmp_path / "b.jsonl", [{"text": LONG + "…", "label": "Bullish"}])
    assert report.reasons == {"split conflict": 1}
    assert audit_data(CONFIG, home).leaks == 0


def split_of(text: str) -> str:
    return SPLIT_CODES[split_of_group(text_id(text), split_rule(CONFIG.data))]


def test_a_text_changed_by_hand_is_noticed(home: Workspace, tmp_path: Path) -> None:
    give(
        home,
        tmp_path / "a.jsonl",
        [{"text": f"{word} is up today", "label": "Bullish"} for word in ("gold", "oil", "tin", "zinc")],
    )
    rows = tables.read(home, "tweets").to_pylist()
    rows[0] |= {"text": LONG, "split": "train"}
    rows[1] |= {"text": LONG + " now", "split": "test"}
    tables.replace(home, "tweets", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"]))
    with pytest.raises(CheckFailed, match="1 duplicate pairs lie across splits"):
        give(home, tmp_path / "b.jsonl", [{"text": "the fed meets", "label": "Neutral"}])


def test_a_column_named_anew_is_no_column_lost(home: Workspace, tmp_path: Path) -> None:
    ingest(make_context(CONFIG, home), [csv_source(tmp_path / "a.csv", "text,label,id\n$AAPL up,Bullish,1\n")])
    renamed = csv_source(tmp_path / "b.csv", "tweet,label,id\n$SPY flat,Neutral,1\n").model_copy(update={"text": "tweet"})
    assert ingest(make_context(CONFIG, home), [renamed]).accepted == 1


def test_much_quarantine_is_told(home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"the fed meets on day {n}", "label": "2" if n % 2 else "Neutral"} for n in range(20)
    ]
    give(home, tmp_path / "a.jsonl", rows, load_config(overrides=["data.check_labels=false"]))
    assert "a: 10 of 20 rows were quarantined" in caplog.text
    assert "labels that are not understood: '2' (10)" in caplog.text


def test_an_optional_column_of_dates_in_a_form_of_its_own_costs_no_rows(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, object]] = [
        {"text": f"the fed meets on day {n}", "label": "Neutral", "created_at": f"{n + 1} days ago"} for n in range(20)
    ]
    by_time = load_config(overrides=["data.split=time", "data.validation_from=2024-05-05", "data.test_from=2024-05-10"])
    with pytest.raises(InputError, match=r"nearly all dates .* such as '1 days ago'\. Rows are split by time"):
        give(home, tmp_path / "a.jsonl", rows, by_time)
    assert tables.version(home, "tweets") is None
    taken = give(home, tmp_path / "a.jsonl", rows)
    assert (taken.quarantined, taken.accepted + taken.duplicates, taken.flags) == (0, 20, {"unreadable date": 20})
    assert give(home, tmp_path / "a.jsonl", rows, created_at="created_at").duplicates == 20
    assert "all rows are taken without a date" in caplog.text
    assert set(tables.read(home, "tweets")["created_at"].to_pylist()) == {None}


def test_dates_as_warehouses_and_pandas_write_them_are_read(home: Workspace, tmp_path: Path) -> None:
    written = ["2024-05-20 14:00:00 UTC", "2024-05-20 14:00:00.000000 GMT", "nan", "NaT", "None"]
    rows: list[dict[str, object]] = [
        {"text": f"word{n} is up on place{n} today", "label": "Neutral", "created_at": value} for n, value in enumerate(written)
    ]
    assert give(home, tmp_path / "a.jsonl", rows).accepted == 5
    found = {row["text"]: row["created_at"] for row in stored(home).values()}
    moment = datetime(2024, 5, 20, 14, tzinfo=UTC)
    assert [found[str(row["text"])] for row in rows] == [moment, moment, None, None, None]


@pytest.mark.parametrize("name", ["tweets", "quarantine", "signatures"])
def test_a_table_that_others_changed_stops_an_ingestion_before_it_writes_any(home: Workspace, tmp_path: Path, name: str) -> None:
    from deltalake import DeltaTable
    from deltalake.schema import Field, PrimitiveType

    give(home, tmp_path / "a.jsonl", [{"text": "the fed meets", "label": "Neutral"}, {"text": "", "label": "Neutral"}])
    required = Field("checked_by", PrimitiveType("string"), nullable=False)
    DeltaTable(tables.location(home, name)).alter.add_columns([required])
    before = {table: tables.version(home, table) for table in tables.SCHEMAS}
    with pytest.raises(InputError, match=f"table '{name}' .* has the column 'checked_by', which allows no nulls"):
        give(home, tmp_path / "b.jsonl", [{"text": "gold up", "label": "Bullish"}])
    assert {table: tables.version(home, table) for table in tables.SCHEMAS} == before
