"""Malformed files drawn from a seed: a generator for each way in which a file of tweets can be broken."""

import gzip
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

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
