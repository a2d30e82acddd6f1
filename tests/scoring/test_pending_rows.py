"""What is due: the same rows, hashes and refusals as by looking at each text, and chunks that a later run cuts again."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finsent.data import tables
from finsent.data.predictions import ModelIdentity
from finsent.data.quarantine import append_records
from finsent.data.validation.row_validation import Rejection, check_text
from finsent.scoring import pending_rows
from finsent.text import text_hash
from finsent.workspace import Workspace

LONGEST = 40
MODEL = ModelIdentity("finsent", "1", "one", datetime(2025, 1, 1, tzinfo=UTC))
PIECES = [
    "rt",
    "rts",
    "buy",
    "RT @a:",
    "https://t.co/x",
    "http",
    "www.x",
    " ",
    "\n",
    "\u2028",
    "\x1c",
    "é",
    "ſſſ",
    "$A",
    "&nbsp;",
    "🚀",
    "K",
]
texts = st.one_of(
    st.none(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=LONGEST + 2),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(texts, max_size=30))
def test_rows_are_those_that_each_pass_the_check_and_no_others(found):
    ids = [f"t{place % 10}-{place}" for place in range(len(found))]
    rows = pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(found, pa.string())})
    good, bad = pending_rows._check(rows, LONGEST)
    checked = {name: check_text(text, LONGEST) for name, text in zip(ids, found, strict=True)}
    refused = {name: answer for name, answer in checked.items() if isinstance(answer, Rejection)}
    assert good.to_pylist() == [{"id": name, "text": text} for name, text in zip(ids, found, strict=True) if name not in refused]
    assert [(row.place, row.reason, row.detail) for row in bad] == [
        (f"inbox#{name}", answer.reason, f"{answer.detail}; inbox id {name}") for name, answer in refused.items()
    ]
    ordered = pending_rows._sort_by_text_hash(pa.concat_tables([good, good.slice(0, 0)]))
    assert ordered.to_pylist() == [
        {"id": name, "text": text, "text_hash": digest}
        for digest, name, text in sorted((text_hash(row["text"]), row["id"], row["text"]) for row in good.to_pylist())
    ]


def test_what_is_set_aside_once_is_not_set_aside_again(home: Workspace):
    now = datetime.now(UTC)
    rows = [{"id": name, "text": text, "created_at": now, "received_at": now} for name, text in (("a", " "), ("b", "buy now"))]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))
    first = pending_rows.find_pending(home, MODEL, max_characters=LONGEST)
    assert [row.place for row in first.bad] == ["inbox#a"]
    append_records(home, first.bad, now)
    again = pending_rows.find_pending(home, MODEL, max_characters=LONGEST)
    assert (again.bad, again.rows["id"].to_pylist()) == ((), ["b"])


def test_an_id_that_another_writer_put_in_twice_is_scored_once(home: Workspace):
    now = datetime.now(UTC)
    came = [("a", "gold", 2), ("a", "silver", 1), ("a", "silver", 3), ("b", "buy now", 1)]
    rows = [{"id": name, "text": text, "received_at": now + timedelta(hours=hours)} for name, text, hours in came]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))
    found = pending_rows.find_pending(home, MODEL, max_characters=LONGEST)
    assert sorted(zip(found.rows["id"].to_pylist(), found.rows["text"].to_pylist(), strict=True)) == [
        ("a", "silver"),
        ("b", "buy now"),
    ]
    (refused,) = found.bad
    why = "inbox id a was put there by another writer for another text before"
    assert (refused.text, refused.reason, refused.detail) == ("gold", "id reused", why)
    append_records(home, found.bad, now)
    assert pending_rows.find_pending(home, MODEL, max_characters=LONGEST).bad == ()


@given(st.integers(0, 60_000), st.integers(50, 9_000), st.integers(1, 8), st.floats(0, 1))
def test_chunks_cover_the_rows_and_are_cut_again_from_any_of_their_starts(total, size, devices, died):
    cuts = pending_rows.chunk_bounds(total, size, devices)
    assert [start for start, _ in cuts] == [0, *(stop for _, stop in cuts)][: len(cuts)]
    assert (cuts[-1][1] if cuts else 0) == total
    sizes = [stop - start for start, stop in cuts]
    assert all(0 < some <= size for some in sizes)
    assert devices > 1 or all(some == size for some in sizes[:-1])
    committed = int(died * len(cuts))
    start = sum(sizes[:committed])
    assert pending_rows.chunk_bounds(total - start, size, devices) == [(a - start, b - start) for a, b in cuts[committed:]]


def test_chunks_for_several_devices_end_small():
    sizes = [stop - start for start, stop in pending_rows.chunk_bounds(1_000_000, 20_000, 4)]
    assert sizes[:2] == [20_000, 20_000]
    assert sorted(sizes, reverse=True) == sizes
    assert max(sizes[-8:]) <= 1000


def test_a_row_whose_id_was_scored_for_another_text_is_set_aside_and_one_of_the_same_text_is_not(home: Workspace):
    now = datetime.now(UTC)
    came = [
        *[("1", "hello aapl", -2), ("1", "tesla crashes", 1), ("1", "a third", 1)],
        *[("2", "gone", 1), ("3", "the same", 1), ("4", "unknown", 1)],
        *[("5", "while it was scored", -1), ("5", "was there", -1), ("6", "old", -1)],
    ]
    rows = [{"id": name, "text": text, "received_at": now + timedelta(hours=hours)} for name, text, hours in came]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))
    done = [("1", "hello aapl"), ("2", "removed from the inbox"), ("3", "the same"), ("5", "was there"), ("6", "not looked at")]
    scored = [{"id": name, "text_hash": text_hash(text)} for name, text in done] + [{"id": "4", "text_hash": None}]
    shared = {"model_digest": "one", "scored_at": now, "label": "Neutral"}
    table = pa.Table.from_pylist([{**row, **shared} for row in scored], schema=tables.SCHEMAS["predictions"])
    tables.append(home, "predictions", table)
    found = pending_rows.find_pending(home, MODEL, max_characters=LONGEST)
    assert {row.text for row in found.bad} == {"tesla crashes", "a third", "gone", "while it was scored"}
    assert {row.reason for row in found.bad} == {"id reused"}
    assert (len(found.rows), found.settled) == (0, 5)
    append_records(home, found.bad[:1], now)
    assert len(pending_rows.find_pending(home, MODEL, max_characters=LONGEST).bad) == 3
