"""The benchmarks in their tiny form: what they measure means nothing here, what they say about it must be right."""

import importlib
import importlib.util
import json
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.several_processes import launch

FOLDER = Path(__file__).parents[2] / "benchmarks"
WITH_PLANNER = importlib.util.find_spec("finsent.engine.memory_planner") is not None


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They are scripts: they import one another by name. Libraries' own warnings are theirs."""
    monkeypatch.syspath_prepend(str(FOLDER))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by all, as on a GPU machine: the base is built once."""
    return tmp_path_factory.mktemp("benchmarks")


def run(script: str, *options: str, folder: Path, out: Path) -> dict[str, Any]:
    status = importlib.import_module(script).main([str(folder), "--tiny", "--json", str(out), *options])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert status == 0, found.get("failed")
    assert found["finished"]
    assert found["benchmark"] == script
    return found


def test_lengths_follow_the_fit_and_a_file() -> None:
    llama8b = importlib.import_module("llama8b")
    drawn = llama8b.draw_lengths(40_000)
    assert (drawn.min(), drawn.max()) == (3, 128)
    assert np.median(drawn) == pytest.approx(28, abs=0.5)
    # of 38,121 labelled tweets: 17, 28, 42
    assert np.percentile(drawn, [25, 50, 75]) == pytest.approx([17, 28, 42], abs=2)
    assert np.array_equal(drawn, llama8b.draw_lengths(40_000))
    measured = llama8b.draw_lengths(40_000, lengths="percentiles")
    assert np.percentile(measured, [5, 25, 50, 75, 90, 95, 99]) == pytest.approx([8, 17, 28, 42, 61, 73, 104], abs=1.5)
    assert measured.mean() == pytest.approx(32.4, abs=0.7)


def test_lengths_come_from_a_file_where_one_is_given(tmp_path: Path) -> None:
    llama8b = importlib.import_module("llama8b")
    file = tmp_path / "lengths.txt"
    file.write_text("7 9\n300", encoding="utf-8")
    assert set(llama8b.draw_lengths(200, lengths=str(file)).tolist()) == {7, 9, 128}


def test_texts_are_distinct_and_have_the_tokens_asked_for() -> None:
    llama8b = importlib.import_module("llama8b")
    texts = llama8b.write_texts(llama8b.draw_lengths(500))
    tokens = llama8b.make_tokenizer()(texts.texts, truncation=True, max_length=128)["input_ids"]
    assert len(set(texts.texts)) == 500
    assert [len(row) for row in tokens] == texts.wanted.tolist()
    llama8b.check_lengths(texts, tokens)
    with pytest.raises(SystemExit, match="1 of 500 texts have other token counts"):
        llama8b.check_lengths(texts, [tokens[0][:-1], *tokens[1:]])


def test_floors_are_those_of_the_report() -> None:
    measuring = importlib.import_module("measuring")
    assert measuring.floor_rows_per_second("train", 31.4) == pytest.approx(902, abs=2)
    assert measuring.floor_rows_per_second("infer", 31.4) == pytest.approx(1804, abs=4)
    assert measuring.floor_rows_per_second("infer", 30.0, "fp8") == pytest.approx(3224, abs=5)


def test_rates_from_timed_steps() -> None:
    measuring = importlib.import_module("measuring")
    found = measuring.rates(
        "train", rows=[16, 16, 16], seconds=[1.0, 2.0, 4.0], tokens_per_row=30.0, padded_per_real=1.5, ceiling={"bf16": 395.0}
    )
    assert found["rows_per_second"] == 8.0
    assert found["rows_per_second_wall"] == pytest.approx(48 / 7, abs=0.01)
    assert found["tokens_per_second"] == 240
    assert found["useful_tflops"] == pytest.approx(4 * 6.979e9 * 240 / 1e12, abs=0.01)
    assert found["share_of_measured_ceiling"] == pytest.approx(2 * found["share_of_floor"], rel=0.01)
    assert found["hours_full_run"] == pytest.approx(114_357 / (48 / 7) / 3600, abs=0.01)


def test_a_part_that_fails_is_kept_and_the_next_one_runs(tmp_path: Path) -> None:
    measuring = importlib.import_module("measuring")
    path, found = tmp_path / "out.json", {"results": []}
    with measuring.part("first", path, found):
        raise ValueError("out of luck")
    with measuring.part("second", path, found) as result:
        result["rows_per_second"] = 1.0
    assert measuring.finish(path, found) == 1
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert kept["failed"] == [{"part": "first", "error": "ValueError: out of luck"}]
    assert [result["part"] for result in kept["results"]] == ["second"]


@pytest.mark.long
def test_training_side_by_side(folder: Path, tmp_path: Path) -> None:
    options = ("--parts", "naive", "card", "naive", "--steps", "3", "--skip", "1", "--naive-steps", "2", "--naive-warmup", "1")
    found = run("speed_train", *options, folder=folder, out=tmp_path / "train.json")
    first, ours, last = found["results"]
    assert [first["part"], ours["part"], last["part"]] == ["naive", "card", "naive"]
    assert all(math.isfinite(result[name]) for result in (first, ours, last) for name in ("first_loss", "last_loss"))
    assert 0.5 < first["first_loss"] < 2.5
    assert first["padded_per_real"] > 1.1
    assert first["rows_per_step"] == ours["rows_per_step"] == 16
    assert ours["steps_timed"] == 3
    assert ours["tokens_per_row"] == found["tokens_per_row"]
    assert ours["outside_the_steps_seconds"] < ours["end_to_end_seconds"]
    low, high = sorted([first["rows_per_second"], last["rows_per_second"]])
    assert found["naive_spread"] == pytest.approx(high / low - 1, abs=1e-3)


@pytest.mark.long
def test_training_under_torchrun(folder: Path, tmp_path: Path) -> None:
    """Over two processes as over one: the same losses, one folder, one file, rates of both together."""
    options = ("--tiny", "--parts", "fast", "--steps", "3", "--skip", "1", "--set", "lora.dropout=0")
    one = run("speed_train", *options[1:], folder=folder, out=tmp_path / "one.json")
    home = tmp_path / "several"
    done = launch(
        2, [str(FOLDER / "speed_train.py"), str(home), "--json", str(tmp_path / "two.json"), *options], check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))
    assert two["finished"]
    assert "failed" not in two
    assert two["environment"]["command"].startswith("torchrun --nproc-per-node 2 benchmarks/speed_train.py FOLDER")
    (alone,), (both,) = one["results"], two["results"]
    assert (alone["processes"], both["processes"]) == (1, 2)
    assert both["rows_per_step"] == 128
    assert both["losses"] == pytest.approx(alone["losses"], rel=0.01)  # bfloat16: passes of other shapes round otherwise
    share = both["rows_per_second"] * both["tokens_per_row"] * 4 * 6.979e9 / (2 * 790e12)
    assert both["share_of_floor"] == pytest.approx(share, rel=0.01)
    assert len(list((home / "home" / "runs").iterdir())) == 1
    assert done.stdout.count("base in") == 1


def test_the_naive_side_does_not_run_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parse = importlib.import_module("speed_train").parse
    assert parse(["x"]).parts == ["naive", "card", "fast", "naive"]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = parse(["x", "--json", "x.json"])
    assert arguments.parts == ["card", "fast"]
    assert arguments.json is None, "the main process alone writes"
    with pytest.raises(SystemExit):
        parse(["x", "--parts", "naive", "fast"])
    assert "Under torchrun leave `naive` out." in capsys.readouterr().err


def test_watch_leaves_out_the_first_steps_and_reads_the_clock() -> None:
    speed_train = importlib.import_module("speed_train")
    watch = speed_train.Watch()
    for step, at, rate in [(1, 10.0, 1.0), (2, 20.0, 100.0), (3, 20.4, 200.0), (4, 20.8, 200.0), (5, 22.0, 40.0)]:
        watch.steps.append((step, at, {"rows_per_second": rate, "loss": 1.0 / step, "padding_share": 0.0}))
    found = speed_train.read_watch(watch, skip=1, rows_per_step=16, tokens_per_row=30.0, ceiling={})
    assert found["rows_per_second"] == pytest.approx(np.median([100, 200, 200, 40]), rel=0.01)
    assert found["rows_per_second_wall"] == 24.0  # 3 steps of 16 rows in 2 seconds
    assert found["slowest_step_rows_per_second"] == 40.0
    with pytest.raises(SystemExit, match="Raise --steps"):
        speed_train.read_watch(watch, skip=4, rows_per_step=16, tokens_per_row=30.0, ceiling={})


def test_watch_adds_up_what_is_timed_beside_the_steps() -> None:
    watch = importlib.import_module("speed_train").Watch()
    watch(1, {"compile_seconds": 2.0})
    watch(2, {"compile_seconds": 1.5, "rows_per_second": 3.0, "loss": 1.0})
    watch(2, {"validation_loss": 1.0})
    assert watch.other == {"compile_seconds": 3.5}
    assert [step for step, _, _ in watch.steps] == [2]


@pytest.mark.long
def test_inference_side_by_side_and_into_a_table(folder: Path, tmp_path: Path) -> None:
    ours = ["stock", "bf16"] if WITH_PLANNER else ["stock"]
    options = ("--rows", "40", "--naive-rows", "16", "--naive-batches", "8", "--repeats", "2", "--table", "40")
    found = run("speed_infer", "--parts", "naive", *ours, "naive", *options, folder=folder, out=tmp_path / "infer.json")
    assert [result["part"] for result in found["results"]] == ["naive b8", *ours, "naive b8"]
    for result in found["results"]:
        assert result["rows_per_second"] > 0
        assert result["model_only"]["rows_per_second"] == result["model_only_rows_per_second"] > 0
    stock = found["results"][1]
    assert stock["rows"] == 40
    assert stock["padded_per_real"] > 1
    table = stock["table"]
    assert (table["rows"], table["distinct"]) == (40, 36)
    seconds = table["receive_seconds"] + table["due_seconds"] + table["score_and_write_seconds"]
    assert table["rows_per_second"] == pytest.approx(40 / seconds, rel=0.2)


def test_the_adapter_of_the_benchmarks_loads_and_matters(folder: Path) -> None:
    """|s B A| is 1.5 % of |W|, in every layer, and the logits show it."""
    llama8b, fidelity = importlib.import_module("llama8b"), importlib.import_module("fidelity")
    from finsent.models.adapter import load_adapter
    from finsent.models.predict import predict_logits

    base, _ = llama8b.build_base(folder, tiny=True)
    adapter = llama8b.make_adapter(base, folder / "adapter-test", llama8b.configure(base, "llama-3.1-8b"))
    loaded = load_adapter(adapter, llama8b.home_in(folder))
    shares = []
    for module in loaded.model.modules():
        if hasattr(module, "lora_B"):
            update = module.lora_B["default"].weight @ module.lora_A["default"].weight * module.scaling["default"]
            shares.append(float(update.norm()) / (llama8b.WEIGHT_STD * update.numel() ** 0.5))
    assert len(shares) == 14
    assert shares == pytest.approx([0.015] * 14, rel=0.3)
    texts = llama8b.write_texts(llama8b.draw_lengths(16)).texts
    logits = predict_logits(loaded, texts)
    with loaded.model.disable_adapter():
        off = predict_logits(fidelity.with_saved_head(loaded), texts)
    assert 1e-3 < fidelity.compare(off, logits)["rms_over_std"] < 0.5


def test_comparison_of_logits() -> None:
    compare = importlib.import_module("fidelity").compare
    reference = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    assert compare(reference, reference)["rms_over_std"] == 0.0
    assert compare(reference + np.float32(0.1), reference)["rms_over_std"] == pytest.approx(0.1, abs=0.01)
    assert compare(reference + np.float32(0.1), reference)["largest_probability_difference"] < 1e-6
    assert compare(-reference, reference)["agreement"] == 0.0
    shifted = reference + np.array([0, 0, 50], dtype=np.float32)
    assert compare(shifted, shifted + np.float32(0.1))["rms_over_row_std"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.long
def test_gradients_of_both_engines_agree(folder: Path, tmp_path: Path) -> None:
    found = run("fidelity", "--parts", "gradient", "--rows", "16", folder=folder, out=tmp_path / "fidelity.json")
    gradient = found["results"][-1]
    assert gradient["within_limit"]
    assert min(gradient["norms_adapters"] + gradient["norms_head"]) > 0
    assert gradient["losses"][1] == pytest.approx(gradient["losses"][0], rel=0.02)


@pytest.mark.long
def test_memory_in_processes_of_their_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    options = ("--parts", "train_16gib", "infer_stock", "--without-planner", "--steps", "2", "--rows", "32")
    found = run("memory", *options, folder=folder, out=tmp_path / "memory.json")
    assert [(result["part"], result["cap_gib"]) for result in found["results"]] == [("train_16gib", 16.0), ("infer_stock", None)]
    assert all(result["rows_per_second"] > 0 for result in found["results"])


def a_run(benchmark: str, results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    environment = {"device": "Some GPU", "date": "2026-01-01", "command": "python benchmarks/x.py", "torch": "2.11"}
    common = {"tokens_per_row": 31.4, "lengths": "log-normal", "measured_ceiling_tflops": {"bf16": 783.0}}
    return {
        "benchmark": benchmark,
        "tiny": False,
        "environment": environment,
        "finished": True,
        "results": results,
        **common,
        **more,
    }


def test_tables_say_what_was_measured_and_no_more() -> None:
    measuring, tables = importlib.import_module("measuring"), importlib.import_module("performance_table")
    common = {"tokens_per_row": 31.4, "padded_per_real": 1.5}
    slow = measuring.rates("train", rows=[16], seconds=[2.7], **common) | {"part": "naive", "rows_per_step": 16, "peak_gib": 6.2}
    fast = measuring.rates("train", rows=[16], seconds=[0.04], **common)
    fast |= {"part": "card", "rows_per_step": 16, "peak_gib": 18.0, "compile_seconds": 20.0, "capture_seconds": 3.0}
    failed = [{"part": "fast", "error": "ValueError: no"}]
    text = tables.make([a_run("speed_train", [slow, fast, slow], naive_spread=0.012, failed=failed, finished=False)])
    line = next(line for line in text.splitlines() if line.startswith("| `llama-3.1-8b`"))
    assert [cell.strip() for cell in line.split("|")][3:5] == ["400.0", "67.5x"]
    assert "| 23.0 |" in line
    assert "differ by 1.2 %" in text
    assert "901" in next(line for line in text.splitlines() if line.startswith("| floor"))
    assert "Failed: fast: ValueError: no" in text
    assert "ended before all parts had run" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {14}


def test_several_gpus_are_set_beside_one() -> None:
    tables = importlib.import_module("performance_table")

    def trained(processes: int, rate: float, losses: list[float], overrides: list[str]) -> dict[str, Any]:
        result = {"part": "fast", "processes": processes, "rows_per_second": rate, "rows_per_second_wall": rate - 1}
        more = {"share_of_floor": 0.5, "peak_gib": 50.0, "rows_per_step": 128, "losses": losses, "overrides": overrides}
        return a_run("speed_train", [result | more], finished=True)

    exact = ["lora.dropout=0", "recipe.token_dropout=0"]
    scaling = [
        {"devices": 1, "rows_per_second": 1000.0, "scaling": 1.0},
        {"devices": 2, "rows_per_second": 1960.0, "scaling": 1.96},
    ]
    scored = a_run("speed_infer", [{"part": "devices", "scaling": scaling}], finished=True, rows=32768)
    runs = [trained(2, 941.0, [1.0, 0.9], []), trained(1, 481.0, [1.0, 0.8], []), trained(1, 400.0, [1.0, 0.8], exact)]
    runs += [trained(2, 700.0, [1.001, 0.8016], exact), trained(1, 300.0, [1.0, 0.84], [*exact, "engine.compile=never"]), scored]
    text = tables.make_scaling(runs)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [line[1:] for line in lines[2:4]] == [
        ["1", "481.0", "480.0", "1.00x", "1.00x", "50.0 %", "50.0"],
        ["2", "941.0", "940.0", "1.96x", "1.96x", "50.0 %", "50.0"],
    ]
    assert [line[1:3] + line[4:5] for line in lines[4:6]] == [["1", "1,000", "1.00x"], ["2", "1,960", "1.96x"]]
    assert [[line[0], line[1], line[-1]] for line in lines[8:]] == [
        ["`llama-3.1-8b-fast`", "1", ""],
        ["`llama-3.1-8b-fast`, `engine.compile=never`", "1", "5.0 %"],
        ["`llama-3.1-8b-fast`", "2", "0.2 %"],
    ]
    assert "1.96x of one" in tables.make([scored]), "the same run among others"
    with pytest.raises(SystemExit, match="on 2 GPUs has no run of one GPU beside it"):
        tables.make_scaling(runs[:1])


def test_figures_of_a_tiny_run_never_reach_the_page() -> None:
    tables = importlib.import_module("performance_table")
    with pytest.raises(SystemExit, match="mean nothing"):
        tables.make([a_run("memory", [], tiny=True)])


def test_tables_are_put_between_the_markers() -> None:
    tables = importlib.import_module("performance_table")
    page = (FOLDER.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    new = tables.put_into(page, "| a |\n")
    assert "| a |" in new
    assert new.startswith(page.split("<!-- measured -->")[0])
    assert new.endswith(page.split("<!-- /measured -->")[1])
    assert tables.put_into(new, "| a |\n") == new
    both = tables.put_into(new, "| b |\n", "measured on a CPU")
    assert both.index("| a |") < both.index("On a CPU") < both.index("| b |")
    with pytest.raises(SystemExit, match="once each"):
        tables.put_into("nothing here", "| a |")


def test_commands_show_no_folder_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = importlib.import_module("measuring")
    monkeypatch.setattr(sys, "argv", ["/x/benchmarks/speed_train.py", "/somewhere/big", "--json", "/somewhere/train.json"])
    assert measuring.command() == "python benchmarks/speed_train.py FOLDER --json train.json"
