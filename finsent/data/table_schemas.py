"""Schemas of the Delta tables, their required columns and migrations, and the metadata keys of their commits."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import pyarrow as pa

from finsent.data.splits import SPLIT_CODES
from finsent.labels import LABELS

CommitKey = Literal[
    "finsent.commit",
    "fingerprint",
    "ids_new_after",
    "leaks",
    "masked",
    "naive_leak",
    "removed",
    "report",
    "scored_removed",
    "scored_through",
    "signature_rule",
    "split_rule",
]
"""Metadata of a commit. Written commits cannot change: renaming a key needs a migration."""
CommitMetadata = Mapping[CommitKey, str]

_TIME: Final = pa.timestamp("us", tz="UTC")


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


_PREDICTION: Final = {"p_neutral": pa.float64(), "p_bullish": pa.float64(), "p_bearish": pa.float64(), "confidence": pa.float64()}

SCHEMAS: Final[Mapping[str, pa.Schema]] = MappingProxyType(
    {
        "tweets": _schema(
            id=pa.string(),
            text=pa.string(),
            label=pa.string(),
            source=pa.string(),
            created_at=_TIME,
            group=pa.string(),
            split=pa.string(),
            ingested_at=_TIME,
            flags=pa.string(),
            source_id=pa.string(),
        ),
        "signatures": _schema(
            id=pa.string(),
            template=pa.int64(),
            prefix=pa.int64(),
            truncated=pa.bool_(),
            bands=pa.binary(),
            sketch=pa.binary(),
        ),
        "reviews": _schema(
            id=pa.string(),
            text=pa.string(),
            decision=pa.string(),
            label=pa.string(),
            why=pa.string(),
            who=pa.string(),
            decided_at=_TIME,
        ),
        "quarantine": _schema(
            source=pa.string(),
            row=pa.int64(),
            text=pa.string(),
            reason=pa.string(),
            detail=pa.string(),
            ingested_at=_TIME,
            id=pa.string(),
            input=pa.string(),
            label=pa.string(),
            source_id=pa.string(),
        ),
        "inbox": _schema(id=pa.string(), created_at=_TIME, text=pa.string(), received_at=_TIME),
        "inbox_files": _schema(
            source=pa.string(),
            uri=pa.string(),
            settings=pa.string(),
            stamp=pa.string(),
            identity=pa.string(),
            state=pa.string(),
            reason=pa.string(),
            rows=pa.int64(),
            recorded_at=_TIME,
        ),
        "predictions": _schema(
            id=pa.string(),
            text_hash=pa.string(),
            label=pa.string(),
            **_PREDICTION,
            abstained=pa.bool_(),
            model_name=pa.string(),
            model_version=pa.string(),
            run_id=pa.string(),
            scored_at=_TIME,
            model_digest=pa.string(),
        ),
    }
)
"""Columns of each table. Labels are class names, times are UTC to the microsecond."""

REQUIRED_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"tweets": ("id", "text", "label", "source", "group", "split")}
)
"""Columns that have a value in every row; a table changed by other means may break this."""

ALLOWED_VALUES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {"tweets": {"label": LABELS, "split": SPLIT_CODES}, "predictions": {"label": LABELS}}
)
"""Columns that hold one of a few names; another writer may have put something else there."""

ADDED_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"tweets": ("flags", "source_id"), "quarantine": ("id", "input", "label", "source_id"), "predictions": ("model_digest",)}
)
"""Schema migrations: columns added after the first release, in that order. An older table gets them with its next append; until
then, and in its old rows, they are null. Columns are never renamed, retyped or dropped."""

TABLE_PROPERTIES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "tweets": {
            "delta.enableExpiredLogCleanup": "false",
            "delta.logRetentionDuration": "interval 36500 days",
            "delta.deletedFileRetentionDuration": "interval 36500 days",
        }
    }
)
"""Delta properties of each table; an older table gets them with its next write. Registry, evidence and reports refer to versions
of `tweets`: by default Delta would remove their log entries after 30 days, and a vacuum their files after a week."""
