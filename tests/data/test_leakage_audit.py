"""The full audit finds leaks that no record tells of."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from finsent.config import Source, load_config
from finsent.data import tables
from finsent.data.leakage import audit_data
from finsent.errors import InputError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import Workspace

CONFIG = load_config()
TEXT = "loading up on september calls this morning because the chart looks ready and volume is finally back"


def test_a_version_is_audited_from_its_texts(home: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data yet"):
        audit_data(CONFIG, home)
    rows = [(f"{TEXT} {end}", "Bullish") for end in ("", "ok", "now")] + [("fed meets", "Neutral")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    ingest(make_context(CONFIG, home), [Source(uri=str(tmp_path / "a.jsonl"))])
    clean = audit_data(CONFIG, home)
    assert (clean.rows, clean.leaks) == (4, 0)
    planted = tables.read(home, "tweets").filter(pa.compute.equal(tables.read(home, "tweets")["text"], f"{TEXT} ok"))
    moved = planted.to_pylist()[0]
    moved |= {"id": "f" * 32, "text": f"{TEXT} oh", "split": "test" if moved["split"] != "test" else "train"}
    version = tables.append(home, "tweets", pa.Table.from_pylist([moved], schema=tables.SCHEMAS["tweets"]))
    audit = audit_data(CONFIG, home)
    assert (audit.version, audit.leaks) == (version, 3)
    assert sum(audit.near.values()) == 3
    assert audit_data(CONFIG, home, clean.version).leaks == 0
    assert not audit.form_changed
