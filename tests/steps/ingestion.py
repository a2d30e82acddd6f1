"""What the tests of the ingestion share: small sources, the invariants of a report, two machines on one set of tables."""

import json
from pathlib import Path

from finsent.config import Config, Source, load_config
from finsent.data import tables
from finsent.data.ingest_report import IngestReport
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import Workspace, resolve_workspace

CONFIG = load_config()


def check(report: IngestReport, home: Workspace) -> None:
    """What must hold after any ingestion."""
    assert report.read == report.accepted + report.duplicates + report.quarantined + report.unlabelled
    assert sum(report.reasons.values()) == report.quarantined
    for counts in report.by_source.values():
        assert counts["read"] == counts["accepted"] + counts["duplicates"] + counts["quarantined"] + counts["unlabelled"]
    for key in ("read", "accepted", "duplicates", "quarantined"):
        assert sum(counts[key] for counts in report.by_source.values()) == getattr(report, key)
    assert report.leaks == 0
    stored = tables.read(home, "tweets").to_pylist()
    assert len({row["id"] for row in stored}) == len(stored)
    assert len(stored) == sum(sum(by_label.values()) for by_label in report.splits.values())
    splits_of_group: dict[str, set[str]] = {}
    for row in stored:
        splits_of_group.setdefault(row["group"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert len(splits_of_group) == report.groups


def write(path: Path, *rows: tuple[str, str]) -> Source:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return Source(uri=str(path))


def bad_rows(home: Workspace) -> list[tuple[str, int, str]]:
    return [(row["source"], row["row"], row["reason"]) for row in tables.read(home, "quarantine").to_pylist()]


def shared_homes(tmp_path: Path) -> list[Workspace]:
    """Two machines' homes over the same tables."""
    return [
        resolve_workspace({"FINSENT_HOME": str(tmp_path / name), "FINSENT_TABLES": str(tmp_path / "tables")}) for name in "ab"
    ]


def give(home: Workspace, path: Path, rows: list[dict[str, object]], config: Config = CONFIG, **source: object) -> IngestReport:
    """Write rows to a file and ingest it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ingest(make_context(config, home), [Source(uri=str(path), **source)])  # type: ignore[arg-type]


def stored(home: Workspace) -> dict[str, dict[str, object]]:
    """Rows of the data by text."""
    return {row["text"]: row for row in tables.read(home, "tweets").to_pylist()}
