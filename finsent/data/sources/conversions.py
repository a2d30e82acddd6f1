"""Kinds of files that are not read, and the command that makes one that is of each."""

import json
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

_PANDAS: Final = "import pandas; pandas.read_{reader}({file}).to_parquet({target})"
_STREAM: Final = (
    "import pyarrow as pa, pyarrow.parquet as pq; pq.write_table(pa.ipc.open_stream(pa.OSFile({file})).read_all(), {target})"
)
_HTML: Final = "import pandas; pandas.read_html({file})[0].to_parquet({target})"
_KINDS: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"\x80[\x02-\x05]", "a pickle, which runs code when it is opened", _PANDAS.replace("{reader}", "pickle")),
    (b"ARROW1|FEA1", "a Feather (Arrow) file", _PANDAS.replace("{reader}", "feather")),
    (rb"\xff\xff\xff\xff[^\x00]..\x00", "an Arrow stream", _STREAM),
    (b"ORC(?=.*\x00)", "an ORC file", _PANDAS.replace("{reader}", "orc")),  # ORCL is a ticker, and a column
    (rb"<\?xml.*schemas-microsoft-com:office:spreadsheet", "a workbook of Excel 2003 in XML", ""),
    (rb"<\?xml", "XML", _PANDAS.replace("{reader}", "xml")),
    (rb"(?i:<(?:!--|(?:!doctype|html|head|body|meta|table|div)\b))", "HTML", _HTML),  # `<3` begins a tweet
)
"""First bytes, what they mean, and the Python that converts it; none where only a spreadsheet program does."""
_PACKED: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"Obj\x01", "an Avro file", "fastavro {file} > {target}.jsonl"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {file} -o{folder}"),
    (b"Rar!", "a RAR archive", "unrar x {file} {folder}/"),
)
TAR_SUFFIXES: Final = frozenset({".tar", ".tgz", ".tbz", ".tbz2", ".txz"})


def how_to_convert(path: str, head: bytes) -> tuple[str, str] | None:
    """What a file is by its first bytes, and what to do, where it is of a kind that is not read; else None."""
    for magic, kind, code in _KINDS:
        if re.match(magic, head, re.DOTALL):
            return kind, _by_python(path, code) if code else "Open it in a spreadsheet program, and save it as .xlsx."
    for magic, kind, command in _PACKED:
        if head.startswith(magic):
            said = command.format(file=shlex.quote(path), target=shlex.quote(path), folder=shlex.quote(f"{path}.d"))
            return kind, f"Convert it: {said}" if "target" in command else f"Unpack it and give the folder: {said}"
    if head.startswith(b"SQLite format 3"):
        return "an SQLite database", f"Give its address and a query: {_query(path)}"
    if head[257:262] == b"ustar" or _is_tar(path):
        folder = shlex.quote(f"{path}.d")
        return "a tar archive", f"Unpack it and give the folder: mkdir {folder} && tar -xf {shlex.quote(path)} -C {folder}"
    return None


def _is_tar(path: str) -> bool:
    return bool({suffix.lower() for suffix in Path(path).suffixes[-2:]} & TAR_SUFFIXES)


def _by_python(path: str, code: str) -> str:
    filled = code.format(file=json.dumps(path), target=json.dumps(f"{path}.parquet"))
    needs = " (needs lxml)" if code == _HTML or "read_xml" in code else ""
    return f"Convert it{needs}: python -c {shlex.quote(filled)}"


def _query(path: str) -> str:
    """The address, and a query for its only table; of several the first, which is for the user to change."""
    url = shlex.quote(f"sqlite:///{Path(path).absolute()}")
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY rowid").fetchall()
    except sqlite3.Error:
        tables = []
    names = [str(name) for (name,) in tables] or ["tweets"]
    name = names[0] if names[0].isidentifier() else '"' + names[0].replace('"', '""') + '"'
    others = f" (it also has {', '.join(names[1:10])})" if names[1:] else ""
    return f"{url} --query {shlex.quote(f'SELECT * FROM {name}')}{others}"  # noqa: S608 - for a person to run
