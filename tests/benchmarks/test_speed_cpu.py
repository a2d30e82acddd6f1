"""The CPU's benchmark in a small form: what it times means nothing here, what it says about it must be right."""

import importlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They are scripts: they import one another by name. Libraries' own warnings are theirs."""
    monkeypatch.syspath_prepend(str(FOLDER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.long
def test_all_sides_in_turns_and_into_a_table(tmp_path: Path) -> None:
    out = tmp_path / "cpu.json"
    options = ("--rows", "64", "--train-rows", "32", "--rounds", "1", "--vary", "minilm:recipe.mixed_precision=none")
    status = importlib.import_module("speed_cpu").main([str(tmp_path), "--tiny", "--json", str(out), *options])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert status == 0, found.get("failed")
    assert found["finished"]
    named = [result["part"] for result in found["results"]]
    assert named[:6] == [f"nano {work} {side}" for work in ("train", "infer") for side in ("naive", "stock", "ours")]
    assert "minilm train ours, recipe.mixed_precision=none" in named
    results = {result["part"]: result for result in found["results"]}
    assert results["nano train naive"]["engine"] == results["nano train stock"]["engine"] == "stock"
    assert (results["nano train ours"]["engine"], results["nano train ours"]["padded_per_real"]) == ("packed", 1.0)
    assert results["nano infer ours"]["engine"] == "packed"
    assert results["minilm train ours"]["mixed_precision"] == "bf16"
    assert results["minilm train naive"]["mixed_precision"] == "none"
    assert results["minilm infer naive"]["precision"] == "as loaded"
    assert results["minilm infer ours"]["precision"] in {"bf16", "fp32"}
    # padding is no matter of taste: the same adapter in other batches gives the same logits
    assert found["fidelity"]["minilm"]["naive"]["rms_over_std"] < 1e-4
    assert found["fidelity"]["nano"]["ours"]["agreement"] > 0.9
    line = next(one for one in found["summary"] if (one["profile"], one["work"], one["side"]) == ("nano", "infer", "ours"))
    rates = [result["rows_per_second"] for result in found["results"] if result["part"] == "nano infer ours"]
    assert (line["rounds"], line["median"], line["least"], line["most"]) == (1, *rates, *rates, *rates)
    tables = importlib.import_module("performance_table")
    text = tables.make([found], tiny=True)
    assert str(tmp_path) not in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {10}
    with pytest.raises(SystemExit, match="mean nothing"):
        tables.make([found])


def test_a_ratio_is_that_of_one_round_to_the_naive_side_of_the_same_round() -> None:
    """A machine that slows down by half between rounds changes no ratio."""
    slow = [("naive", 100.0), ("ours", 300.0), ("naive", 50.0), ("ours", 150.0), ("naive", 10.0), ("ours", 40.0)]
    results = [{"profile": "nano", "work": "train", "side": side, "rows_per_second": rate} for side, rate in slow]
    naive, ours = importlib.import_module("speed_cpu").summarise(results)
    assert (ours["median"], ours["least"], ours["most"], ours["of_naive"]) == (150.0, 40.0, 300.0, 3.0)
    assert naive["of_naive"] == 1.0


def test_rows_are_labelled_and_in_random_order() -> None:
    from finsent.labels import LABELS

    texts, labels, source = importlib.import_module("speed_cpu").read_rows(None, 300)
    assert len(texts) == len(labels) == 300
    assert all(text.strip() for text in texts)
    assert set(labels.tolist()) == set(range(len(LABELS)))
    assert source == "desk.csv.gz, 300 rows"
