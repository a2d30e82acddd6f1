"""Whatever arrives in whatever order, with people deciding in between: no leak, no row lost, doubled or moved."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finsent.config import Config, Source, load_config
from finsent.data import tables
from finsent.data.leakage import audit_data
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.review import decide
from finsent.workspace import Workspace

WORDS = (
    "the quick market turns again as traders watch yields fall while copper rallies hard and oil slips below support into "
    "friday options expiry with banks leading small caps lagging and gold flat"
)
STRATEGIES = {
    "group": load_config(),
    "time": load_config(
        overrides=[
            "data.split=time",
            "data.validation_from='2025-03-01T00:00:00Z'",
            "data.test_from='2025-04-01T00:00:00Z'",
            "data.embargo_hours=48",
        ]
    ),
    "source": load_config(overrides=["data.split=source", "data.validation_sources=[news]", "data.test_sources=[street]"]),
}


def tweet(draw: random.Random) -> dict[str, str]:
    """A window of one long text in some disguise, so that near copies, chains and bridges abound."""
    start = draw.randrange(60)
    text = WORDS[start : start + draw.choice((60, 90, 100, 110))]
    text = draw.choice(("{}", "{}", "$AAPL {}", "$TSLA {}", "RT @x: {}", "{} 🚀", "{}…", "{} https://t.co/a…")).format(text)
    if draw.random() < 0.05:
        text = draw.choice(("", "🚀🚀🚀", "$AAPL", "https://t.co/x", "$AAPL 🚀"))
    moment = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=draw.choice((10, 57.5, 59, 80, 88.5, 95)))
    label = draw.choices(("Bullish", "Bearish"), (1, 0.3))[0]
    return {"text": text, "label": label, "created_at": moment.isoformat()}


def places(home: Workspace) -> dict[str, tuple[str, str]]:
    rows = tables.read(home, "tweets", columns=["id", "split", "group"]).to_pylist()
    found = {row["id"]: (row["split"], row["group"]) for row in rows}
    assert len(found) == len(rows), "an identity came in twice"
    return found


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 20))])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_arrivals(home: Workspace, tmp_path: Path, strategy: str, seed: int) -> None:
    config: Config = STRATEGIES[strategy]
    draw, dropped = random.Random(f"{strategy}{seed}"), set[str]()
    known: dict[str, tuple[str, str]] = {}
    for number in range(4):
        rows = [tweet(draw) for _ in range(draw.randrange(1, 14))]
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        report = ingest(make_context(config, home), [Source(uri=str(path), name=draw.choice(("desk", "news", "street")))])
        assert report.read == len(rows) == report.accepted + report.duplicates + report.quarantined
        now = places(home)
        assert all(now[row] == place for row, place in known.items()), "a row moved or was lost"
        assert not dropped & now.keys()
        splits: dict[str, set[str]] = {}
        for split, group in now.values():
            if split != "excluded":
                splits.setdefault(group, set()).add(split)
        assert all(len(found) == 1 for found in splits.values()), "a group in two splits"
        if now and draw.random() < 0.5:
            chosen, kind = draw.choice(sorted(now)), draw.choice(("drop", "accept"))
            decide(home, [chosen], kind, who="me", why="looked at it", label=None)
            dropped |= {chosen} if kind == "drop" else set()
        known = places(home)
    if known:
        assert audit_data(config, home).leaks == 0
