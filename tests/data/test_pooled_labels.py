"""Files too small to be judged alone are judged together, and with what their source brought earlier."""

from pathlib import Path

import pytest

from finsent.config import Source
from finsent.data import tables
from finsent.errors import CheckFailed
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import Workspace
from tests.steps.ingestion import CONFIG, write

_UP = ("breakout of {} today, buying calls", "strong growth at {}, upgrade and record profits", "{} rallies, green and higher")
_DOWN = ("{} crashes, puts and more puts", "weak {} misses, downgrade and a lawsuit", "{} tumbles and sinks, red and lower")


def day(folder: Path, number: int, labels: dict[str, str], **source: str) -> Source:
    names = [f"{first}{second} group {number}" for first in "abcd" for second in "mnop"]
    rows = [(said.format(name), value) for value, texts in (("1", _UP), ("0", _DOWN)) for name in names[:4] for said in texts]
    return write(folder / f"day{number}.jsonl", *rows).model_copy(update={"labels": labels, **source})


@pytest.mark.parametrize("apart", [False, True])
def test_small_files_under_one_wrong_map_are_refused(home: Workspace, tmp_path: Path, apart: bool) -> None:
    wrong = {"1": "Bearish", "0": "Bullish"}
    days = [day(tmp_path, number, wrong, **({"name": "desk"} if apart else {})) for number in range(4)]
    context = make_context(CONFIG, home)

    def read() -> None:
        for sources in [[source] for source in days] if apart else [days]:
            ingest(context, sources)

    with pytest.raises(CheckFailed, match="--label-map '1=Bullish,0=Bearish' would fit"):
        read()
    if not apart:
        assert tables.version(home, "tweets") is None
    ingest(context, [day(tmp_path, 9, {"1": "Bullish", "0": "Bearish"}, name="other")])


def test_a_source_that_somebody_accepted_as_it_is_goes_on(home: Workspace, tmp_path: Path) -> None:
    wrong = {"1": "Bearish", "0": "Bullish"}
    config = CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update={"check_labels": False})})
    ingest(make_context(config, home), [day(tmp_path, number, wrong, name="desk") for number in range(4)])
    assert ingest(make_context(CONFIG, home), [day(tmp_path, 5, wrong, name="desk")]).accepted
