import os
from pathlib import Path

import pytest

from finsent.config import Config
from finsent.errors import InputError
from finsent.models.base_model import BaseFolder
from finsent.training.run_dir import (
    find_resumable,
    hold_run_dir,
    load_result,
    mark_finished,
    require_resumable,
    save_result,
    settings_digest,
)
from finsent.training.trainer import TrainingResult


def known(run_id: str) -> bool:
    return not run_id.startswith("deleted")


def cut_off(runs: Path, name: str, digest: str, *, checkpoint: bool = True, at: int = 1) -> None:
    work = hold_run_dir(runs / name, digest)
    work.__enter__()
    if checkpoint:
        (runs / name / "checkpoint-5").mkdir()
        (runs / name / "checkpoint-5" / "state.json").write_text("{}")
    assert not work.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    os.utime(runs / name / "training.json", (at, at))


def test_the_newest_interrupted_training_of_these_settings_is_found(tmp_path: Path) -> None:
    assert find_resumable(tmp_path, "d1", known) is None
    cut_off(tmp_path, "old", "d1", at=1)
    cut_off(tmp_path, "new", "d1", at=2)
    cut_off(tmp_path, "deleted-in-mlflow", "d1", at=5)
    cut_off(tmp_path, "other-settings", "d2", at=3)
    cut_off(tmp_path, "no-checkpoint", "d1", checkpoint=False, at=4)
    assert find_resumable(tmp_path, "d1", known) == "new"
    with hold_run_dir(tmp_path / "new", "d1"):
        assert find_resumable(tmp_path, "d1", known) == "old"  # somebody is at work in the other
        with pytest.raises(InputError, match="another process"), hold_run_dir(tmp_path / "new", "d1"):
            pass
    assert find_resumable(tmp_path, "d1", known) == "new"  # free again, and not registered
    mark_finished(tmp_path / "new", "d1")
    assert find_resumable(tmp_path, "d1", known) == "old"


def test_a_run_named_by_hand_must_fit(tmp_path: Path) -> None:
    cut_off(tmp_path, "a", "d1")
    require_resumable(tmp_path, "a", "d1", known)
    with pytest.raises(InputError, match="other settings"):
        require_resumable(tmp_path, "a", "d2", known)
    with pytest.raises(InputError, match="'nowhere'"):
        require_resumable(tmp_path, "nowhere", "d1", known)
    for impossible in ("a" * 300, "a/training.json", "a\0"):
        with pytest.raises(InputError, match=f"no training '{impossible[:1]}"):
            require_resumable(tmp_path, impossible, "d1", known)
    cut_off(tmp_path, "b", "d1", checkpoint=False)
    with pytest.raises(InputError, match="first checkpoint"):
        require_resumable(tmp_path, "b", "d1", known)
    cut_off(tmp_path, "deleted", "d1")
    with pytest.raises(InputError, match=r"MLflow has no run 'deleted'.* --run-id deleted"):
        require_resumable(tmp_path, "deleted", "d1", known)
    mark_finished(tmp_path / "a", "d1")
    with pytest.raises(InputError, match="finished"):
        require_resumable(tmp_path, "a", "d1", known)


def test_the_digest_knows_what_decides_a_result(tiny_config: Config) -> None:
    same = tiny_config.model_copy(update={"experiment": "elsewhere"})
    other = tiny_config.model_copy(update={"recipe": tiny_config.recipe.model_copy(update={"seed": 1})})
    assert settings_digest(tiny_config, "f") == settings_digest(same, "f")
    assert len({settings_digest(tiny_config, "f"), settings_digest(other, "f"), settings_digest(tiny_config, "g")}) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest"', "null", "[" * 100_000])
def test_a_damaged_state_file_of_an_old_run_stops_no_training(tmp_path: Path, text: str) -> None:
    cut_off(tmp_path, "good", "d1", at=1)
    cut_off(tmp_path, "damaged", "d1", at=2)
    (tmp_path / "damaged" / "training.json").write_text(text, encoding="utf-8")
    assert find_resumable(tmp_path, "d1", known) == "good"
    with pytest.raises(InputError, match="'damaged'"):
        require_resumable(tmp_path, "damaged", "d1", known)


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[" * 100_000, '{"base": {}}', '{"base": {"folder": "b", "revision": null, "fingerprint": "f"}}']
)
def test_a_damaged_result_counts_as_absent(tmp_path: Path, text: str) -> None:
    cut_off(tmp_path, "a", "d1")
    (tmp_path / "a" / "adapter").mkdir()
    (tmp_path / "a" / "result.json").write_text(text, encoding="utf-8")
    assert load_result(tmp_path / "a") is None
    assert find_resumable(tmp_path, "d1", known) == "a", "from its checkpoint"


def test_a_result_vouches_only_for_the_adapter_that_the_loop_saved(tmp_path: Path) -> None:
    cut_off(tmp_path, "a", "d1", checkpoint=False)
    folder = tmp_path / "a"
    (folder / "adapter").mkdir()
    weights = folder / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"trained")
    numbers = dict.fromkeys(("pad_token_id", "rows", "steps", "resumed_from", "trainable_parameters", "quantized_modules"), 0)
    seconds = dict.fromkeys(("seconds", "preparation_seconds", "rows_per_second"), 1.0)
    words = {"mixed_precision": "none", "engine": "stock", "plan": "why"}
    base = BaseFolder(tmp_path / "base", None, "f")
    result = TrainingResult(
        adapter=folder / "adapter", base=base, final_loss=float("nan"), processes=1, **numbers, **seconds, **words
    )
    save_result(folder, result)
    loaded = load_result(folder)
    assert loaded is not None
    assert (loaded.adapter, loaded.base) == (result.adapter, base)
    assert find_resumable(tmp_path, "d1", known) == "a"
    (folder / "adapter" / "README.md").write_text("the card comes later")
    assert load_result(folder) is not None
    for damaged in (b"", b"trainee"):
        weights.write_bytes(damaged)
        assert load_result(folder) is None
        assert find_resumable(tmp_path, "d1", known) is None, "there is no checkpoint either"
