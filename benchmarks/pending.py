"""Seconds and memory to find 1,000 new tweets among those that are scored.

    python benchmarks/pending.py FOLDER --rows 500000 2000000 5000000

For each number of rows a home is made whose inbox came in files of 25,000 tweets and was scored in chunks of 20,000; then 1,000
come, and a fresh process finds what is due, and another one by reading the whole tables, as it was before watermarks. `process_s`
is with start and imports; memory is the peak above that after the imports. Homes stay in FOLDER and are made once.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.predictions import ModelIdentity
from finsent.data.table_schemas import SCHEMAS
from finsent.scoring import pending_rows, writer
from finsent.scoring.watermark import watermark_at
from finsent.text import text_hash
from finsent.workspace import Workspace, resolve_workspace

MODEL = ModelIdentity("finsent", "1", "benchmark", datetime(2025, 1, 1, tzinfo=UTC))
NEW = 1000
RECEIVED, SCORED = 25_000, 20_000


def main() -> None:
    """Make the homes, and ask a process of its own for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 2_000_000])
    parser.add_argument("--find", choices=["new", "whole"], help="for the processes that this program starts")
    given = parser.parse_args()
    if given.find:
        print(json.dumps(_find(_home(given.folder, given.rows[0]), whole=given.find == "whole")))
        return
    for rows in given.rows:
        home = _home(given.folder, rows)
        if tables.version(home, "predictions") is None:
            _make(home, rows)
        for how in ("new", "new", "new", "whole"):
            command = [sys.executable, __file__, str(given.folder), "--rows", str(rows), "--find", how]
            started = time.perf_counter()
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            figures = {"rows": rows, "read": how, **json.loads(run.stdout), "process_s": round(time.perf_counter() - started, 2)}
            print(json.dumps(figures), flush=True)


def _home(folder: Path, rows: int) -> Workspace:
    return resolve_workspace({"FINSENT_HOME": str(folder / f"home-{rows}")})


def _tweets(start: int, stop: int) -> pa.Table:
    numbers = pa.array(range(start, stop), pa.int64())
    ids = pc.utf8_lpad(pc.cast(pc.multiply(numbers, 7_919), pa.string()), 19, padding="1")
    texts = pc.binary_join_element_wise("$TICK", pc.cast(numbers, pa.string()), "beats estimates, buying more calls before", " ")
    now = pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC"))
    count = stop - start
    columns = {"id": ids, "created_at": pa.repeat(now, count), "text": texts, "received_at": pa.repeat(now, count)}
    return pa.table(columns).cast(SCHEMAS["inbox"])


def _predictions(tweets: pa.Table) -> pa.Table:
    """Made quickly: of the hashes only the length is right, which is enough for ids that came once."""
    count = len(tweets)
    given: dict[str, Any] = {
        "id": tweets["id"],
        "text_hash": pc.utf8_lpad(tweets["id"], len(text_hash("x")), padding="0"),
        "label": pa.repeat("Neutral", count),
        **{name: pa.repeat(0.3, count) for name in ("p_neutral", "p_bullish", "p_bearish", "confidence")},
        "abstained": pa.array([False] * count),
        "model_name": pa.repeat(MODEL.name, count),
        "model_version": pa.repeat(MODEL.version, count),
        "run_id": pa.repeat("run", count),
        "scored_at": tweets["received_at"],
        "model_digest": pa.repeat(MODEL.digest, count),
    }
    names = SCHEMAS["predictions"].names
    return pa.table([given[name] for name in names], names=names).cast(SCHEMAS["predictions"])


def _make(home: Workspace, rows: int) -> None:
    for start, stop in _cuts(0, rows, RECEIVED):
        _receive(home, start, stop)
    _score(home, 0, rows)
    _receive(home, rows, rows + NEW)  # a run such as those that come every quarter of an hour
    _score(home, rows, rows + NEW)
    _receive(home, rows + NEW, rows + 2 * NEW)


def _receive(home: Workspace, start: int, stop: int) -> None:
    at = tables.position(home, "inbox", "finsent-receive")
    marked = {"ids_new_after": str(at.version)}
    tables.append_if_unchanged(home, "inbox", _tweets(start, stop), "finsent-receive", at, marked)  # type: ignore[arg-type]


def _score(home: Workspace, start: int, stop: int) -> None:
    after = writer.read_position(home)
    mark = watermark_at(home, tables.version(home, "inbox") or 0, MODEL, None)
    for first, last in _cuts(start, stop, SCORED):
        through = replace(mark, since=after.version) if mark is not None and last == stop else None
        after = writer.commit_chunk(home, _predictions(_tweets(first, last)), after, through) or after


def _cuts(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    return ((first, min(first + size, stop)) for first in range(start, stop, size))


def _find(home: Workspace, *, whole: bool) -> dict[str, Any]:
    import deltalake  # noqa: F401
    import pyarrow.dataset  # noqa: F401

    if whole:
        pending_rows.find_arrivals = lambda *_: None  # type: ignore[assignment]
    before, started, worked = _peak(), time.perf_counter(), time.process_time()
    due = pending_rows.find_pending(home, MODEL, max_characters=5000)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    if len(due.rows) != NEW:
        raise SystemExit(f"{len(due.rows)} rows are due")
    return {"find_s": round(seconds, 3), "find_cpu_s": round(worked, 3), "find_GB": round(_peak() - before, 3)}


def _peak() -> float:
    # not getrusage: its peak is inherited from the process that started this one
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e9


if __name__ == "__main__":
    main()
