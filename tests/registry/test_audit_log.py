"""The audit log: whatever is done to the file, `verify` sees it."""

import json
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import CheckFailed, InputError
from finsent.registry import audit_log
from finsent.registry.audit_log import GENESIS, Head, append, history, read, verify
from tests.registry.clocks import clock_at


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "audit_log.jsonl"
    for version in range(1, 6):
        append(path, {"event": "promotion", "version": str(version), "rules": ["naïve 🚀", version / 3]})
    return path


def test_entries_come_back_chained(log):
    entries = read(log)
    assert [entry["seq"] for entry in entries] == [0, 1, 2, 3, 4]
    assert entries[0]["previous_hash"] == GENESIS
    assert [entry["previous_hash"] for entry in entries[1:]] == [entry["hash"] for entry in entries[:-1]]
    assert entries[2]["rules"] == ["naïve 🚀", 1.0]
    assert datetime.fromisoformat(entries[0]["at"]).utcoffset().total_seconds() == 0
    assert verify(log) == Head(entries[-1]["hash"], 5)


def test_append_returns_what_read_gives(tmp_path):
    path = tmp_path / "new folder" / "audit_log.jsonl"
    entry = append(path, {"tuple": (1, 2), "numbered": {10: "ten", 9: "nine"}})
    assert read(path) == [entry]
    assert entry["numbered"] == {"10": "ten", "9": "nine"}
    assert verify(path).length == 1


def test_no_audit_log_is_an_empty_one(tmp_path):
    assert read(tmp_path / "none.jsonl") == []
    assert verify(tmp_path / "none.jsonl") == Head(GENESIS, 0)


def test_an_edited_entry_is_named(log):
    log.write_text(log.read_text().replace('"version":"3"', '"version":"9"'))
    with pytest.raises(CheckFailed, match="line 3: the entry was changed"):
        verify(log)


def test_an_entry_edited_with_its_hash_made_to_fit_breaks_the_next(log, tmp_path):
    lines = log.read_text().splitlines()
    forged = tmp_path / "forged.jsonl"
    forged.write_text("\n".join(lines[:2]) + "\n")
    append(forged, {"event": "promotion", "version": "9"})
    forged.write_text(forged.read_text() + "\n".join(lines[3:]) + "\n")
    with pytest.raises(CheckFailed, match="line 4: the entry does not follow"):
        verify(forged)


@pytest.mark.parametrize(
    ("order", "line"), [([0, 1, 3, 4], 3), ([1, 2, 3, 4], 1), ([0, 2, 1, 3, 4], 2), ([0, 1, 2, 2, 3, 4], 4), ([4, 3, 2, 1, 0], 1)]
)
def test_deleted_moved_and_repeated_lines_are_named(log, order, line):
    lines = log.read_text().splitlines()
    log.write_text("".join(lines[index] + "\n" for index in order))
    with pytest.raises(CheckFailed, match=f"line {line}: the entry does not follow"):
        verify(log)


def test_truncation_shows_in_the_head_alone(log):
    known = verify(log)
    lines = log.read_text().splitlines()
    log.write_text("".join(line + "\n" for line in lines[:3]))
    assert verify(log).length == 3
    assert verify(log) != known


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_byte_can_be_changed(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flipped.jsonl"
    original = tmp_path_factory.getbasetemp() / "original.jsonl"
    if not original.exists():
        for version in range(3):
            append(original, {"data_version": version, "rules": ["ü", 0.1]})
    content = bytearray(original.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(CheckFailed, match=r"line [1-4]"):
        verify(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a":1', "not JSON"),
        (b"[1,2]", "list where an entry belongs"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":1e999}', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_lines_that_are_no_entries_are_named(log, line, message):
    log.write_bytes(log.read_bytes() + line + b"\n")
    for look in (verify, read):
        with pytest.raises(CheckFailed, match=f"line 6: {message}"):
            look(log)
    with pytest.raises(CheckFailed, match="line 6"):
        append(log, {"event": "promotion"})


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("seq", None, "missing"),
        ("seq", '"0"', "'0'"),
        ("gate", "null", "None"),
        ("reasons", "null", "None"),
        ("reasons", "[1]", r"\[1\]"),
        ("version", "3", "3"),
        ("at", '"yesterday"', "'yesterday'"),
    ],
)
def test_a_line_with_a_field_of_another_type_is_named(log, key, value, found):
    entry = json.loads(log.read_text().splitlines()[-1]) | ({key: json.loads(value)} if value else {})
    if value is None:
        del entry[key]
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]) + json.dumps(entry) + "\n")
    for look in (verify, read, lambda path: history(path, "finsent"), lambda path: append(path, {"event": "promotion"})):
        with pytest.raises(CheckFailed, match=rf"line 5: {key!r} is {found}.*restore"):
            look(log)


def test_a_second_key_of_the_same_name_does_not_hide_an_edit(log):
    log.write_text(log.read_text().replace('"version":"3"', '"version":"9","version":"3"'))
    with pytest.raises(CheckFailed, match="line 3: the entry was changed"):
        verify(log)


def test_what_a_power_cut_leaves_is_cut_off_and_recorded(log):
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"event":"promo')
    with pytest.raises(CheckFailed, match="line 6: 15 bytes without a line end"):
        verify(log)
    assert len(read(log)) == 5
    entry = append(log, {"event": "rollback"})
    assert (entry["seq"], entry["dropped_bytes"]) == (5, 15)
    assert verify(log) == Head(entry["hash"], 6)
    assert log.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"hash": "x"}, r"keys \['hash'\]"),
        ({"seq": 1, "at": "now"}, r"keys \['seq', 'at'\]"),
        ({"value": float("nan")}, "not plain JSON"),
        ({"value": np.float32(1)}, "not plain JSON"),
        ({"version": 3}, "has 'version' 3, which is of another type"),
    ],
)
def test_entries_that_cannot_be_kept_are_refused_before_anything_is_written(tmp_path, entry, message):
    path = tmp_path / "audit_log.jsonl"
    with pytest.raises(InputError, match=message):
        append(path, entry)
    assert not path.exists()


WRITER = """
import pathlib, sys
from finsent.registry.audit_log import append
for number in range(15):
    append(pathlib.Path(sys.argv[1]), {"writer": int(sys.argv[2]), "number": number})
"""


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    path = tmp_path / "audit_log.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(who)]) for who in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert verify(path).length == 45
    seen = [(entry["writer"], entry["number"]) for entry in read(path)]
    assert sorted(seen) == [(who, number) for who in range(3) for number in range(15)]
    assert json.loads(path.read_text().splitlines()[0])["seq"] == 0


def test_a_clock_that_was_set_back_is_recorded_and_listed(tmp_path, monkeypatch):
    path = tmp_path / "audit_log.jsonl"
    for at in ("2026-07-01T12:00:00", "2026-07-01T11:00:00", "2026-07-01T11:30:00", "2026-07-01T11:29:59.5"):
        monkeypatch.setattr(audit_log, "datetime", clock_at(at))
        audit_log.append(path, {"action": "gate", "model": "finsent", "version": "1"})
    monkeypatch.undo()
    assert [entry.get("clock_back_seconds") for entry in audit_log.verified_entries(path)] == [None, 3600.0, None, 0.5]
    assert [entry.clock_back_seconds for entry in audit_log.history(path, "finsent").entries] == [0, 3600.0, 0, 0.5]
    assert [entry.clock_back_seconds for entry in audit_log.history(path, "finsent", limit=1).entries] == [0.5]
