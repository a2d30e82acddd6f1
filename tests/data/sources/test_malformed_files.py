"""Five hundred malformed files, drawn from a seed: each is refused whole, with a reason, or every row in it is accounted for."""

import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.resolve import RawRow, fingerprint_file, labelled_columns, resolve
from finsent.errors import InputError

SEED = 20251
WORDS = ("buy", "sell", "$AAPL", "🚀", "naïve", "moon", "€5", "漲", "dip", "hold", "earnings", "puts")
LABELS = ("Bullish", "Bearish", "Neutral")


@dataclass(frozen=True)
class Malformed:
    """A file, and the rows it must come to if it is not refused; None where that is not well defined."""

    name: str
    data: bytes
    rows: int | None = None


def tweets(rng: random.Random, most: int = 40) -> list[tuple[str, str]]:
    return [(" ".join(rng.choices(WORDS, k=rng.randint(1, 9))), rng.choice(LABELS)) for _ in range(rng.randint(1, most))]


def delimited(rows: list[tuple[str, str]], delimiter: str, end: str = "\n") -> str:
    return "".join(f"{text}{delimiter}{label}{end}" for text, label in [("text", "label"), *rows])


def lines_of_json(rows: list[tuple[str, str]]) -> str:
    return "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)


def parquet(table: pa.Table, **options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def zstd(data: bytes) -> bytes:
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as packed:
        packed.write(data)
    return out.getvalue().to_pybytes()


def sound(rng: random.Random) -> tuple[str, bytes]:
    """A sound file of any kind."""
    rows = tweets(rng)
    ending = rng.choice(("csv", "tsv", "jsonl", "parquet"))
    if ending == "parquet":
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        return "a.parquet", parquet(pa.table(columns), compression=rng.choice(("snappy", "zstd", "none")))
    text = lines_of_json(rows) if ending == "jsonl" else delimited(rows, "\t" if ending == "tsv" else ",")
    packing = rng.choice(("", "", ".gz", ".zst"))
    data = text.encode()
    return f"a.{ending}{packing}", gzip.compress(data, mtime=0) if packing == ".gz" else zstd(data) if packing == ".zst" else data


def planted(name: str, data: bytes) -> int | None:
    """Records of plain text, counted without the code under test; None where quotes or packing leave that open."""
    if name.endswith(".jsonl"):
        return sum(bool(line.strip()) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    if name.endswith((".csv", ".tsv")) and b'"' not in data:
        text = data.decode("utf-8-sig", "surrogateescape")
        return sum(bool(line) for line in re.split("\r\n|\r|\n", text)) - 1
    return None


def truncated(rng: random.Random) -> Malformed:
    name, data = sound(rng)
    data = data[: rng.randint(0, len(data) - 1)]
    return Malformed(name, data, planted(name, data))


def flipped(rng: random.Random) -> Malformed:
    name, data = sound(rng)
    wrong = bytearray(data)
    for _ in range(rng.choice((1, 3, 20))):
        wrong[rng.randrange(len(wrong))] ^= 1 << rng.randrange(8)
    return Malformed(name, bytes(wrong), planted(name, bytes(wrong)))


def spliced(rng: random.Random) -> Malformed:
    name, data = sound(rng)
    place = rng.randint(0, len(data))
    junk = rng.choice((bytes(rng.randint(1, 50)), b"\xff\xfe", b"\r", b'"', b"\n\n", rng.randbytes(30), b"\xc3", b"\xed\xa0\x80"))
    wrong = data[:place] + junk + data[place + rng.randint(0, 5) :]
    return Malformed(name, wrong, planted(name, wrong))


def encoded(rng: random.Random) -> Malformed:
    rows = tweets(rng)
    ending = rng.choice(("csv", "tsv", "jsonl"))
    text = (
        lines_of_json(rows)
        if ending == "jsonl"
        else delimited(rows, "\t" if ending == "tsv" else ",", rng.choice(("\n", "\r\n")))
    )
    encoding = rng.choice(("latin-1", "cp1252", "shift-jis", "utf-7", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-32-be"))
    data = text.encode(encoding, "replace")
    if encoding in ("utf-16", "utf-32", "utf-8-sig"):
        return Malformed(f"a.{ending}", data, len(rows))
    return Malformed(f"a.{ending}", data, len(rows) if encoding in ("latin-1", "cp1252") else None)


def huge_field(rng: random.Random) -> Malformed:
    rows = [*tweets(rng, 5), (rng.choice(("x", "é ", '""')) * rng.randint(500_000, 1_500_000), "Bullish"), *tweets(rng, 5)]
    kind = rng.choice(("csv", "jsonl", "parquet"))
    if kind == "parquet":
        table = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        return Malformed("a.parquet", parquet(table), len(rows))
    if kind == "jsonl":
        return Malformed("a.jsonl", lines_of_json(rows).encode(), len(rows))
    quoted = "".join(f'"{text}",{label}\n' for text, label in [("text", "label"), *rows])
    return Malformed("a.csv", quoted.encode(), len(rows))


def columns(rng: random.Random) -> Malformed:
    rows, width = tweets(rng, 4), rng.choice((3, 500, 20_000))
    match rng.randrange(5):
        case 0:  # bomb
            header = ["text", "label", *(f"c{n}" for n in range(width))]
            lines = [header, *([text, label, *["0"] * width] for text, label in rows)]
            return Malformed("a.csv", "\n".join(",".join(line) for line in lines).encode(), len(rows))
        case 1:  # twice
            return Malformed("a.csv", f"text,label,{rng.choice(('text', 'other,other'))}\n{'a,Bullish,b,c' * 2}\n".encode())
        case 2:  # ragged
            ragged = ["text,label,x", *(",".join([w] * rng.randint(1, 9)) for w in rng.choices("abc", k=30))]
            return Malformed("a.csv", "\n".join(ragged).encode(), 30)
        case 3:
            values = [{"text": text, "label": label, **{f"c{n}": n for n in range(width)}} for text, label in rows]
            return Malformed("a.jsonl", "\n".join(map(json.dumps, values)).encode(), len(rows))
        case _:
            named = rng.choice(
                (["text", "label", "text"], ["text", "label", "c", "c"], ["text", "Label"], [""], ["text.a", "label"])
            )
            table = pa.table([pa.array(["a", "b"])] * len(named), names=named)
            return Malformed("a.parquet", parquet(table))


def nested(rng: random.Random) -> Malformed:
    depth = rng.choice((2, 30, 400, 950, 990, 5000))
    open_, close = rng.choice((("[", "]"), ('{"a":', "}")))
    value = open_ * depth + "1" + close * depth
    field = rng.choice(("text", "label", "other", "created_at"))
    line = f'{{"text": "a", "label": "Bullish", "{field}": {value}}}\n'
    return Malformed("a.jsonl", (lines_of_json(tweets(rng, 3)) + line * 3).encode(), None)


def numbers(rng: random.Random) -> Malformed:
    values = ("9" * 5000, "-" + "9" * 300, "1e400", "-1e999", "NaN", "Infinity", "1e308", "0.1", "true", "null", "[]", "{}")
    values = (*values, '"\\ud83d"', '""', '"Bullish"', '"up"')
    fields = ("text", "label", "created_at", "id")
    rows = ["{" + ", ".join(f'"{field}": {rng.choice(values)}' for field in fields) + "}" for _ in range(30)]
    return Malformed("a.jsonl", ('{"text": "a", "label": "Bullish"}\n' + "\n".join(rows)).encode(), 31)


def typed(rng: random.Random) -> Malformed:
    arrays = (
        pa.array([1, None, 3]),
        pa.array([1.5, float("nan"), float("inf")]),
        pa.array([True, False, None]),
        pa.array([[1, 2], None, []]),
        pa.array([{"a": {"b": "c"}}, None, {"a": None}]),
        pa.array([[("k", [1])], None, []], pa.map_(pa.string(), pa.list_(pa.int8()))),
        pa.nulls(3),
        pa.array([Decimal("1.00"), None, Decimal("-99999.99")]),
        pa.array([2**55, 0, -(2**55)], pa.timestamp("ms")),
        pa.array([1, 2, 3], pa.timestamp("ns", tz="Mars/Phobos")),
        pa.array([2**30, 0, -(2**30)], pa.date32()),
        pa.array([1, 2, 3], pa.duration("us")),
        pa.array([1, 2, 3], pa.time64("ns")),
        pa.array([b"\xff\xfe", b"ok", None]),
        pa.array(["Bullish", "a", None]).dictionary_encode(),
        pa.array(["Bullish", "Bearish", "Neutral"]),
        pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * 3),
        pa.array([b"0123456789abcdef"] * 3, pa.binary(16)),
        pa.array(["a", "b", None], pa.large_string()),
        pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")),
    )
    table = pa.table({"text": rng.choice(arrays), "label": rng.choice(arrays), "created_at": rng.choice(arrays)})
    return Malformed("a.parquet", parquet(table), 3)


def quoted(rng: random.Random) -> Malformed:
    text = "".join(rng.choices(('"', ",", "\t", "\n", "\r\n", "a", "b ", "Bullish", '""'), k=rng.randint(1, 120)))
    header = rng.choice(("text,label\n", "text\tlabel\n", '"text","label"\n'))
    return Malformed("a.tsv" if "\t" in header else "a.csv", (header + text).encode())


def degenerate(rng: random.Random) -> Malformed:
    marks = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\0\0", b"\x1f\x8b", b"PAR1PAR1", b"\0" * 999)
    scraps = (b"", b"\n", b"\r", b" ", b'"', b"text", b"text,label", b"text,label\n\n\n", b"<html></html>")
    values = (b"{}", b"null", b"[]", b'{"text": "a", "label": "Bullish"}')
    data = rng.choice((*marks, *scraps, *values))
    return Malformed(rng.choice(("a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.zst")), data)


def misnamed(rng: random.Random) -> Malformed:
    name, data = sound(rng)
    other, _ = sound(rng)
    return Malformed(other, data, None if other != name else planted(name, data))


def packed(rng: random.Random) -> Malformed:
    rows = tweets(rng)
    data = delimited(rows, ",").encode()
    match rng.randrange(4):
        case 0:  # in several members, which is sound
            half = len(data) // 2
            return Malformed("a.csv.gz", gzip.compress(data[:half], mtime=0) + gzip.compress(data[half:], mtime=0), len(rows))
        case 1:
            return Malformed("a.csv.gz", gzip.compress(data, mtime=0) + b"garbage")
        case 2:
            return Malformed("a.csv.gz", gzip.compress(gzip.compress(data, mtime=0)))
        case _:
            return Malformed("a.csv.zst", zstd(data) + zstd(b"more,Bullish\n"), len(rows) + 1)


def bomb(rng: random.Random) -> Malformed:
    line = rng.choice((b"a", b",", b"[", b'"', b"a,Bullish" + b" " * 1000))
    data = b"text,label\n" + line * (20 * 2**20 // len(line))
    name = rng.choice(("a.csv", "a.tsv", "a.jsonl"))
    return Malformed(*((f"{name}.gz", gzip.compress(data, 1, mtime=0)) if rng.random() < 0.5 else (f"{name}.zst", zstd(data))))


COMMON: tuple[Callable[[random.Random], Malformed], ...] = (
    truncated, flipped, spliced, encoded, columns, nested, numbers, typed, quoted, degenerate, misnamed, packed,
)  # fmt: skip
RARE: tuple[Callable[[random.Random], Malformed], ...] = (huge_field, bomb)
"""Megabytes each, so there are fewer of them."""


def malformed(number: int) -> Iterator[Malformed]:
    """The first files of the seed, every kind among them."""
    rng = random.Random(SEED)
    for index in range(number):
        yield (RARE[index // 25 % len(RARE)] if index % 25 == 24 else COMMON[index % len(COMMON)])(rng)


def outcome(file: Malformed, folder: Path) -> str:
    """Read the file, and hold against it what must be true of any."""
    path = folder / file.name
    path.write_bytes(file.data)
    source = Source(uri=str(path))
    (found,) = resolve(source)
    try:
        rows = [row for batch in read_rows(found, labelled_columns(source)) for row in batch]
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert path.name in refusal
        assert refusal.encode()  # can be printed
        assert len(refusal) < 3000
        return "refused"
    assert rows
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert all(isinstance(row, RawRow) for row in rows)
    if file.rows is not None:
        assert len(rows) == file.rows, f"{len(rows)} rows read of {file.rows} in {file.name}: {file.data[:300]!r}"
    assert len(str(fingerprint_file(found)["sha256"])) == 64
    return "faults" if any(row.fault for row in rows) else "read"


def test_every_row_of_five_hundred_malformed_files_is_accounted_for(tmp_path: Path) -> None:
    outcomes = Counter(outcome(file, tmp_path) for file in malformed(500))
    assert sum(outcomes.values()) == 500
    assert min(outcomes["refused"], outcomes["faults"], outcomes["read"]) > 50, outcomes


BOMBS: dict[str, str] = {
    "line.csv.gz": "without a line break",
    "line.jsonl.zst": "without a line break",
    "fields.csv.gz": "250 rows",
    "fields.jsonl.zst": "250 rows",
    "same.parquet": "100000 rows",
    "value.parquet": "on average",
}
READER = """
import resource, sys
import pyarrow.parquet
from finsent.config import Source
from finsent.data.sources.formats import read
from finsent.data.sources.resolve import labelled, resolve
from finsent.errors import InputError
source = Source(uri=sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    said = f"{sum(len(batch) for file in resolve(source) for batch in read(file, labelled(source)))} rows"
except InputError as error:
    said = str(error)
print(said)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def write_bomb(path: Path) -> None:
    """A few kilobytes that unpack to 250 megabytes and more."""
    if path.suffix == ".parquet":
        index = pa.array([0] * 100_000, pa.int32()) if path.stem == "same" else pa.array([0], pa.int32())
        word = pa.array(["x" * (4 if path.stem == "same" else 100) * 2**20])
        text = pa.DictionaryArray.from_arrays(index, word)
        table = pa.table({"text": text, "label": ["Bullish"] * len(index)})
        pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)
        return
    if path.name.startswith("line"):
        chunks = [b"text,label\n", *[b"x" * 2**20] * 250]
    elif "csv" in path.name:
        chunks = [b"text,label\n", *[b"x" * 2**20 + b",Bullish\n"] * 250]
    else:
        chunks = [b'{"label": "Bullish", "text": "' + b"x" * 2**20 + b'"}\n'] * 250
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else pa.CompressedOutputStream(str(path), "zstd") as out:
        for chunk in chunks:
            out.write(chunk)


@pytest.mark.parametrize("name", BOMBS)
def test_memory_does_not_grow_with_what_a_file_unpacks_to(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_bomb(path)
    assert path.stat().st_size < 3_000_000
    done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True, check=True)
    said, mebibytes = done.stdout.splitlines()
    assert BOMBS[name] in said
    assert int(mebibytes) < 150, mebibytes


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "round.csv").symlink_to(tmp_path / "round.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.csv").write_text("text,label\nup,Bullish\n")
    (tmp_path / "linked" / "b.csv").symlink_to("c.csv")
    for uri, message in {
        "folder.csv": "holds no file",
        "gone.csv": "is a link to .*nowhere.csv.* not there",
        "round.csv": "is a link to|cannot be looked at",
        "pipe.csv": "not a file but a device, pipe or socket",
        "linked": "b.csv.* is a link to 'c.csv', which is not there",
        "linked/*.csv": "b.csv.* is a link to 'c.csv', which is not there",
        "a.csv/b.csv": "there is no file",
        "x" * 300 + ".csv": "cannot be looked at: File name too long",
        "nul\0.csv": "there is no file",
    }.items():
        with pytest.raises(InputError, match=message):
            resolve(Source(uri=str(tmp_path / uri)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as somebody else")
def test_files_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        for path in (folder / "a.csv", folder / "a.parquet", folder / "closed" / "b.csv"):
            path.write_text("text,label\nup,Bullish\n")
            path.chmod(0o600)
        os.seteuid(65534)
        try:
            for uri, message in {
                "a.csv": "may not be read: permission denied",
                "a.parquet": "may not be read: permission denied",
                "closed/b.csv": "cannot be looked at: Permission denied",
                "closed": "cannot be looked at: Permission denied",
                "": "cannot be looked at: Permission denied .*closed",
            }.items():
                source = Source(uri=str(folder / uri))
                with pytest.raises(InputError, match=message):
                    [list(read_rows(file, labelled_columns(source))) for file in resolve(source)]
        finally:
            os.seteuid(0)


@pytest.mark.usefixtures("_environment")
def test_names_that_are_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    assert (
        through_the_command_line(Malformed(name, b"text,label\nna\xefve,Bullish\nup,Bullish\n", 2), tmp_path / "read", capsys)
        == 0
    )
    (tmp_path / name).write_text("txt,label\nup,Bullish\n")
    with pytest.raises(InputError, match="there is no column 'text'"):
        list(read_rows(resolve(Source(uri=str(tmp_path / name)))[0], labelled_columns(Source(uri=str(tmp_path / name)))))


def through_the_command_line(
    file: Malformed, folder: Path, capsys: pytest.CaptureFixture[str], *, with_report: bool = False
) -> int:
    from finsent.cli.main import run

    folder.mkdir()
    (folder / file.name).write_bytes(file.data)
    checks = ("--set", "data.check_labels=false", "--set", "data.check_schema=false")  # whose refusals are another matter
    report = () if with_report else ("--no-report",)
    capsys.readouterr()
    code = run(["ingest", str(folder / file.name), "--home", str(folder / "home"), "--json", *checks, *report])
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    result = json.loads(line)
    where = f"{file.name} {file.data[:200]!r}: {said.out} {said.err}"
    assert code in (0, 2), where
    assert "unexpected" not in said.err, where
    assert "Traceback" not in said.err, where
    if code == 0:
        assert result["read"] == result["accepted"] + result["duplicates"] + result["quarantined"] > 0, where
        assert file.rows in (None, result["read"]), where
    else:
        assert file.name in result["error"]["message"], where
        assert not (folder / "home" / "tables").exists(), where
    return code


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets variables for what it starts; they are put back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("_environment")
def test_some_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [through_the_command_line(file, tmp_path / str(index), capsys) for index, file in enumerate(malformed(40))]
    assert set(codes) == {0, 2}


@pytest.mark.long
@pytest.mark.usefixtures("_environment")
def test_all_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [
        through_the_command_line(file, tmp_path / str(index), capsys, with_report=index % 5 == 0)
        for index, file in enumerate(malformed(500))
    ]
    assert set(codes) == {0, 2}
