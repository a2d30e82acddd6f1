"""The fingerprint of a base covers every byte; what is remembered of a file holds only while nothing can have changed it."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from finsent.errors import ArtifactError, BaseModelError
from finsent.models import fingerprint as module
from finsent.models.adapter import load_adapter
from finsent.models.base_model import locate_base
from finsent.models.fingerprint import fingerprint
from finsent.models.manifest import MANIFEST, file_sha256
from finsent.workspace import Workspace

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 200, "num_attention_heads": 4,
    "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "transformers_version": "5.0.0",
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Weights of four MiB, more than the samples that older releases looked at."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    save_file({"a": torch.zeros(1 << 19), "q_proj": torch.zeros(64), "z": torch.zeros(1 << 19)}, folder / "model.safetensors")
    return folder


def change_middle(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\x01")


def test_one_byte_in_the_middle_of_the_weights_tells(base: Path) -> None:
    before, sampled = fingerprint(base), module._sampled_fingerprint(base)
    change_middle(base / "model.safetensors")
    assert module._sampled_fingerprint(base) == sampled, "what the older rule misses"
    assert fingerprint(base) != before


@pytest.mark.parametrize(
    "changed",
    [
        {"num_attention_heads": 8},
        {"rms_norm_eps": 1e-6},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"attention_bias": True},
        {"hidden_act": "gelu"},
    ],
)
def test_every_key_of_the_configuration_tells(base: Path, changed: dict[str, Any]) -> None:
    before = fingerprint(base)
    (base / "config.json").write_text(json.dumps({**CONFIG, **changed}), encoding="utf-8")
    assert fingerprint(base) != before


def test_a_copy_elsewhere_by_another_release_is_the_same_base(base: Path, tmp_path: Path) -> None:
    before = fingerprint(base)
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    again = dict(reversed(CONFIG.items())) | {"transformers_version": "6.0.0", "_name_or_path": "/somewhere"}
    (copy / "config.json").write_text(json.dumps(again, indent=2), encoding="utf-8")
    assert fingerprint(copy) == before


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "adapter_config.json", "model-2.safetensors"])
def test_files_that_change_what_is_loaded_tell(base: Path, name: str) -> None:
    before = fingerprint(base)
    (base / name).write_text("{}", encoding="utf-8")
    assert fingerprint(base) != before


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed; every size is remembered."""
    names: list[str] = []

    def count(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(module, "_REMEMBERED", 1)
    monkeypatch.setattr(module, "file_sha256", count)
    return names


def test_a_file_is_hashed_once_and_again_only_when_it_changed(base: Path, tmp_path: Path, hashed: list[str]) -> None:
    cache = tmp_path / "home" / "fingerprints.json"
    first = fingerprint(base, cache)
    assert fingerprint(base, cache) == first
    assert hashed == ["model.safetensors"]
    os.utime(base / "model.safetensors")
    assert fingerprint(base, cache) == first
    assert len(hashed) == 2


def test_neither_a_replaced_nor_a_rewritten_file_of_equal_size_and_time_is_taken_for_the_old_one(
    base: Path, tmp_path: Path, hashed: list[str]
) -> None:
    cache, file = tmp_path / "fingerprints.json", base / "model.safetensors"
    first, times = fingerprint(base, cache), file.stat()
    other = tmp_path / "other"
    shutil.copyfile(file, other)
    change_middle(other)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    replaced = fingerprint(base, cache)
    assert replaced != first
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\x02")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert fingerprint(base, cache) not in {first, replaced}
    assert len(hashed) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format": 1', '"format": 0'),
        lambda _: "[]",
        lambda _: '{"format": 1}',
        lambda _: '{"format": 1, "files": {"x": 1, "y": ["", [1]], "z": [5, null]}}',
    ],
)
def test_a_damaged_or_old_cache_costs_the_time_to_hash(
    base: Path, tmp_path: Path, hashed: list[str], damage: Callable[[str], str]
) -> None:
    cache = tmp_path / "fingerprints.json"
    first = fingerprint(base, cache)
    cache.write_text(damage(cache.read_text(encoding="utf-8")), encoding="utf-8")
    assert fingerprint(base, cache) == fingerprint(base, cache) == first
    assert len(hashed) == 2


def test_where_nothing_can_be_remembered_it_says_so(
    base: Path, tmp_path: Path, hashed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    assert fingerprint(base, tmp_path / "file" / "fingerprints.json") == fingerprint(base)
    assert "computed at every start" in caplog.text


def test_sixteen_gigabytes_that_were_hashed_take_no_time(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(base / "model.safetensors", 16 << 30)  # a hole: it takes no space
    cache = tmp_path / "fingerprints.json"
    with monkeypatch.context() as patched:
        patched.setattr(module, "file_sha256", lambda _: "ab" * 32)  # hashing it for real takes ten seconds or more
        first = fingerprint(base, cache)
    started = time.perf_counter()
    assert fingerprint(base, cache) == first
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_a_damaged_configuration_is_said(base: Path, text: str) -> None:
    (base / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(BaseModelError, match=r"base model in .* cannot be read"):
        fingerprint(base)


def test_an_adapter_under_the_older_rule_still_loads_and_says_so(
    make_adapter: Callable[[int], Path], home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture, tiny_config: Any
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(make_adapter(0), folder)
    written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert written["base_fingerprint"].startswith("v2:")
    written["base_fingerprint"] = module._sampled_fingerprint(locate_base(tiny_config.model, home).folder)
    (folder / MANIFEST).write_text(json.dumps(written), encoding="utf-8")
    load_adapter(folder, home)
    assert "covers only samples" in caplog.text
    written["base_fingerprint"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(written), encoding="utf-8")
    with pytest.raises(ArtifactError, match="not the one the adapter was trained on"):
        load_adapter(folder, home)
