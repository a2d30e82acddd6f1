"""Of a tweet that several models scored, one prediction is current."""

from datetime import UTC, datetime, timedelta

from finsent.data.current_predictions import read_current
from finsent.workspace import Workspace
from tests.data.test_predictions import put

LATER = datetime(2025, 6, 1, 1, tzinfo=UTC)


def test_the_current_prediction_of_a_tweet_is_its_newest(home: Workspace) -> None:
    assert read_current(home, ["id"]).num_rows == 0
    put(home, "abc", LATER, "two")
    put(home, "b", LATER + timedelta(days=1), "one")
    put(home, "c", LATER - timedelta(days=1), "one")
    put(home, "d", LATER, None)
    assert sorted(zip(*read_current(home, ["id", "model_digest"]).to_pydict().values(), strict=True)) == [
        ("a", "two"), ("b", "one"), ("c", "two"), ("d", None)
    ]  # fmt: skip
    assert read_current(home, ["model_digest"], since=LATER + timedelta(hours=1)).to_pylist() == [{"model_digest": "one"}]
