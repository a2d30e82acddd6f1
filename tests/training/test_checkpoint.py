"""Checkpoints that a disk, a kill or a person damaged: the one before is resumed, and nothing half-written is taken."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from finsent.errors import DeviceError, FinsentError, InputError
from finsent.training.checkpoint import complete_checkpoints, require_disk_space, resume_from_newest, save_checkpoint


def model_at(step: int) -> tuple[Any, Any]:
    """A layer whose every weight is the step, and its optimiser."""
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float(step))
    return model, optimizer


def saved(folder: Path, *steps: int) -> None:
    for step in steps:
        save_checkpoint(folder, step, *model_at(step))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def overwrite(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "zeros": overwrite,
    "empty": lambda file: file.write_bytes(b""),
    "missing": Path.unlink,
}


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 15)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-15"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-15"]


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, kind: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 5, 10)
    DAMAGE[kind](tmp_path / "checkpoint-10" / name)
    model, optimizer = model_at(0)
    assert resume_from_newest(tmp_path, model, optimizer) == 5
    assert torch.equal(model.weight, torch.full((64, 64), 5.0))
    if (kind, name) != ("missing", "state.json"):  # without it, it is no checkpoint
        assert "checkpoint-10 is damaged" in caplog.text
    saved(tmp_path, 10)
    assert resume_from_newest(tmp_path, *model_at(0)) == 10


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"step": 5', "\x00"])
def test_nothing_whole_left_is_a_start_from_the_beginning(tmp_path: Path, text: str) -> None:
    saved(tmp_path, 5)
    (tmp_path / "checkpoint-5" / "state.json").write_text(text, encoding="utf-8")
    (tmp_path / "checkpoint-old").mkdir()
    shutil.copy(tmp_path / "checkpoint-5" / "state.json", tmp_path / "checkpoint-old")
    model, optimizer = model_at(7)
    assert resume_from_newest(tmp_path, model, optimizer) == 0
    assert torch.equal(model.weight, torch.full((64, 64), 7.0))


def test_a_checkpoint_without_digests_is_read_as_before(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    file = tmp_path / "checkpoint-5" / "state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    del state["files"]
    file.write_text(json.dumps(state), encoding="utf-8")
    assert resume_from_newest(tmp_path, *model_at(0)) == 5


def test_a_kill_between_any_two_steps_leaves_a_checkpoint_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk before every change to it is what a kill there would leave."""
    folder, points = tmp_path / "run", 0
    saved(folder, 5, 10)
    states = tmp_path / "states"

    def before(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal points
            if folder.exists():
                shutil.copytree(folder, states / str(points), copy_function=os.link)
                points += 1
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "write_text"), (shutil, "rmtree")):
            patched.setattr(owner, name, before(getattr(owner, name)))
        patched.setattr("safetensors.torch.save_file", before(safetensors.torch.save_file))
        saved(folder, 15)
    assert points > 8
    for point in range(points):
        state = states / str(point)
        found = resume_from_newest(state, *model_at(0))
        assert found in {10, 15}, point
        save_checkpoint(state, 20, *model_at(20))
        assert not list(state.glob(".checkpoint-*"))
        assert resume_from_newest(state, *model_at(0)) == 20


def test_files_and_folders_are_on_the_disk_before_the_one_before_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 5, 10)
    done: list[str] = []
    real_sync, real_remove = os.fsync, shutil.rmtree
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(Path(f"/proc/self/fd/{handle}").readlink().name), real_sync(handle))
    )
    monkeypatch.setattr(shutil, "rmtree", lambda folder: (done.append(f"remove {folder.name}"), real_remove(folder)))
    saved(tmp_path, 15)
    assert set(done[:3]) == {"trainable.safetensors", "optimizer.safetensors", "state.json"}
    assert done[3:] == [".checkpoint-15", tmp_path.name, "remove checkpoint-5"]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    for value in (float("nan"), float("inf")):
        model, optimizer = model_at(10)
        with torch.no_grad():
            model.bias[3] = value
        with pytest.raises(FinsentError, match=r"'bias' is not finite at step 10.*Lower recipe\.learning_rate"):
            save_checkpoint(tmp_path, 10, model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DeviceError, match=r"checkpoint of step 10 cannot be written to .* Free space there"):
            save_checkpoint(tmp_path, 10, *model_at(10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert resume_from_newest(tmp_path, *model_at(0)) == 5


def test_a_disk_that_is_too_small_is_said_before_the_training(tmp_path: Path) -> None:
    require_disk_space(tmp_path / "not" / "yet", 1000)
    with pytest.raises(DeviceError, match=r"trainable values take up to .* GB, and .* GB are free at .*another home"):
        require_disk_space(tmp_path / "not" / "yet", shutil.disk_usage(tmp_path).free)


def test_a_base_that_changed_under_its_name_is_not_resumed_on(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, *model_at(5), base="v2:a")
    with pytest.raises(InputError, match=r"trained on another base than the one that model\.name finds now"):
        resume_from_newest(tmp_path, *model_at(0), base="v2:b")
    assert resume_from_newest(tmp_path, *model_at(0), base="v2:a") == 5
