"""Small files that unpack to much more: reading them takes bounded memory."""

import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError
source = Source(uri=sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    said = f"{sum(len(batch) for file in resolve(source) for batch in read_rows(file, labelled_columns(source)))} rows"
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
