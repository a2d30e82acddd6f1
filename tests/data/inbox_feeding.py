"""Files of tweets as people leave them, received as scheduled scoring does."""

import gzip
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finsent.config import DataConfig, InboxSource, ScoringConfig
from finsent.data import tables
from finsent.data.inbox_files import InboxFault, find_faults
from finsent.data.inbox_sources import SourceArrivals, receive_sources
from finsent.workspace import Workspace

LONG_AGO = 1_700_000_000


def write(path: Path, rows: Iterable[tuple[str, str]], *, modified: float | None = LONG_AGO) -> Path:
    """A CSV file that has rested since `modified`; None leaves it as just written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "id,text\n" + "".join(f"{name},{text}\n" for name, text in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    if modified is not None:
        os.utime(path, (modified, modified))
    return path


def made(*sources: Path | InboxSource) -> tuple[InboxSource, ...]:
    return tuple(source if isinstance(source, InboxSource) else InboxSource(uri=str(source)) for source in sources)


def run(home: Workspace, *sources: Path | InboxSource, settle: float = 10.0, **data: Any) -> list[SourceArrivals]:
    return list(receive_sources(ScoringConfig(sources=made(*sources), settle_seconds=settle), DataConfig(**data), home))


def inbox(home: Workspace) -> dict[str, str]:
    rows = tables.read(home, "inbox", columns=["id", "text"]).to_pylist()
    found = {row["id"]: row["text"] for row in rows}
    assert len(found) == len(rows), "an id came in twice"
    return found


def faults(home: Workspace, *sources: Path | InboxSource) -> dict[str, InboxFault]:
    return {Path(fault.uri).name: fault for fault in find_faults(home, made(*sources))}
