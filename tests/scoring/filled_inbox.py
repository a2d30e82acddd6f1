"""An inbox of short tweets, and what scores it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from finsent.config.model_schema import EngineConfig
from finsent.data import tables
from finsent.data.predictions import ModelIdentity
from finsent.scoring.predictor import ModelSpec
from finsent.scoring.writer import PredictionMetadata
from finsent.workspace import Workspace

MODEL = ModelIdentity("finsent", "1", "one", datetime(2025, 1, 1, tzinfo=UTC))
STAMP = PredictionMetadata(MODEL, "r", 0.5)


def make_texts(count: int) -> list[str]:
    words = ("to the moon", "will crash", "reports on tuesday")
    return [f"$TICK{i % 7} {words[i % 3]} number {i}" for i in range(count)]


def fill(home: Workspace, texts: Sequence[str]) -> Workspace:
    """The texts as tweets t0, t1 and so on."""
    now = datetime.now(UTC)
    rows = [{"id": f"t{i}", "text": text, "created_at": now, "received_at": now} for i, text in enumerate(texts)]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))
    return home


def spec_of(folder: Path, home: Workspace) -> ModelSpec:
    return ModelSpec(folder, home, EngineConfig(), rows=100, token_budget=64)
