"""`--label Bullish=bull.csv`: a file for each class, and what is not clear."""

from typing import Any

import pytest

from finsent.cli.class_files import ClassFile, class_sources, take_class_files
from finsent.errors import InputError


def take(*labels: str, **others: Any) -> tuple[dict[str, Any], list[ClassFile]]:
    return take_class_files({"label": labels, "text": None, **others})


def test_columns_and_files() -> None:
    assert take() == ({"label": None, "text": None}, [])
    assert take("mood") == ({"label": "mood", "text": None}, [])
    assert take("x=y") == ({"label": "x=y", "text": None}, [])  # a column may be called so
    _, files = take("bullish=a=b.csv", "Bearish=s3://desk/bear/*.csv", "Bullish=c.csv", "Bullish=c.csv")
    assert files == [("Bullish", "a=b.csv"), ("Bearish", "s3://desk/bear/*.csv"), ("Bullish", "c.csv")]
    assert [source.label_value for source in class_sources(files, {"text": "body"})] == ["Bullish", "Bearish", "Bullish"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["Bulish=a.csv"], r"'Bulish' is no class. Classes are Neutral, Bullish, Bearish. Did you mean 'Bullish'\?"),
        (["pos=x"], r"Did you mean 'Bullish'\?"),
        (["mood=a.csv.gz"], "'mood' is no class"),
        (["mood=hf://owner/name"], "'mood' is no class"),
        (["bullish= "], "Give it as Bullish=FILE"),
        (["Bullish=a.csv", "Bearish=a.csv"], r"gives 'a\.csv' to two classes, Bullish and Bearish"),
        (["Bullish=a.csv", "mood"], "Files with a column of labels need a command of their own"),
        (["mood", "tone"], "--label names several columns, 'mood' and 'tone'"),
    ],
)
def test_what_is_not_clear_is_refused(labels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        take(*labels)
    with pytest.raises(InputError, match="--label-map '1=Bullish' is for files with labels"):
        take("Bullish=a.csv", label_map="1=Bullish")
