"""Labelled files to evaluate on are checked as those to ingest, before any model is loaded."""

from pathlib import Path

import pytest

from finsent.config import Source
from finsent.data.sources.file_counts import next_to_nothing
from finsent.data.sources.labelled_file import load_labelled_file
from finsent.errors import CheckFailed, InputError
from finsent.steps.context import make_context
from finsent.steps.evaluate_ad_hoc import evaluate_file
from finsent.workspace import Workspace
from tests.data.test_pooled_labels import day
from tests.steps.ingestion import CONFIG


def test_a_vocabulary_that_is_partly_understood_and_reversed_labels_are_refused(home: Workspace, tmp_path: Path) -> None:
    context = make_context(CONFIG, home)
    (tmp_path / "one.csv").write_text("text,label\ngold up,positive\ngold down,negative\nfed meets,neutral\n")
    with pytest.raises(InputError, match="--label-map positive=Bullish,negative=Bearish,neutral=Neutral"):
        evaluate_file(context, "1", Source(uri=str(tmp_path / "one.csv")))
    wrong = [day(tmp_path, number, {"1": "Bearish", "0": "Bullish"}) for number in range(4)]
    with pytest.raises(CheckFailed, match="--label-map '1=Bullish,0=Bearish' would fit"):
        evaluate_file(context, "1", *wrong)


def test_what_became_of_the_rows_of_each_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngold up,Bullish\n,Bearish\nfed meets,\n")
    (tmp_path / "b.csv").write_text("text\ngold sinks\n")
    (tmp_path / "c.doc").write_text("notes")
    found = load_labelled_file(
        CONFIG.data, [Source(uri=str(tmp_path / "a.csv")), Source(uri=str(tmp_path / "b.csv"), label_value="Bearish")]
    )
    assert found.rows.texts == ["gold up", "gold sinks"]
    assert [(item.read, item.taken, item.unlabelled, item.reasons) for item in found.files] == [
        (3, 1, 1, {"empty": 1}),
        (1, 1, 0, {}),
    ]
    assert found.skipped == {"empty": 1}
    assert not next_to_nothing(found.files)
    found.files[0].read = 100
    assert next_to_nothing(found.files)
