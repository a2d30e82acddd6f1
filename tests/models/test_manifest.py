import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finsent.errors import ArtifactError
from finsent.models.abstention import abstain_threshold
from finsent.models.manifest import MANIFEST, PROBE, file_sha256, read_probe, verify_manifest, write_manifest


@pytest.fixture
def adapter(make_adapter: Callable[[int], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    shutil.copytree(make_adapter(0), folder)
    return folder


def test_a_sealed_folder_verifies(adapter: Path) -> None:
    manifest = verify_manifest(adapter)
    assert manifest.labels == ("Neutral", "Bullish", "Bearish")
    assert set(manifest.files) == {path.name for path in adapter.iterdir()} - {MANIFEST}


def test_any_flipped_byte_of_any_file_is_refused(adapter: Path) -> None:
    for path in sorted(adapter.iterdir()):
        if path.name == MANIFEST:
            continue
        content = bytearray(path.read_bytes())
        for position in (0, len(content) // 2, len(content) - 1):
            flipped = bytearray(content)
            flipped[position] ^= 0x01
            path.write_bytes(flipped)
            with pytest.raises(ArtifactError, match=path.name):
                verify_manifest(adapter)
        path.write_bytes(content)
    verify_manifest(adapter)


def test_a_missing_and_an_extra_file_are_refused(adapter: Path) -> None:
    (adapter / "extra.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"extra\.json"):
        verify_manifest(adapter)
    (adapter / "extra.json").unlink()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="lacks 'adapter_model"):
        verify_manifest(adapter)


def test_another_label_order_is_refused(adapter: Path) -> None:
    content = json.loads((adapter / MANIFEST).read_text())
    content["labels"] = ["Bearish", "Bullish", "Neutral"]
    (adapter / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="label order"):
        verify_manifest(adapter)


@pytest.mark.parametrize("text", ["{not json", "[" * 100_000])
def test_a_damaged_manifest_is_refused_in_one_sentence(adapter: Path, text: str) -> None:
    (adapter / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match="damaged"):
        verify_manifest(adapter)
    (adapter / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="no manifest"):
        verify_manifest(adapter)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "[]", "{}", '{"texts": [], "logits": []}', '{"texts": ["a"], "logits": [[1]]}']
)
def test_a_damaged_probe_is_refused_in_one_sentence(adapter: Path, text: str) -> None:
    assert len(read_probe(adapter).texts) == len(read_probe(adapter).logits)
    (adapter / PROBE).write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match="damaged"):
        read_probe(adapter)


def test_pickles_and_code_are_never_sealed(adapter: Path) -> None:
    manifest = verify_manifest(adapter)
    for name in ("training_args.bin", "optimizer.pt", "model.pkl", "modeling.py"):
        (adapter / name).write_bytes(b"x")
        with pytest.raises(ArtifactError, match=name):
            write_manifest(adapter, manifest)
        (adapter / name).unlink()
    assert write_manifest(adapter, manifest) == manifest


def relist(folder: Path) -> None:
    """What a forger does: list whatever lies in the folder, digests and all, without asking `write_manifest`."""
    content = json.loads((folder / MANIFEST).read_text())
    content["files"] = {path.name: file_sha256(path) for path in folder.iterdir() if path.is_file() and path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["adapter_model.bin", "Weights.PT", "modeling.py"])
def test_a_manifest_that_lists_a_pickle_or_code_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).write_bytes(b"x")
    relist(adapter)
    with pytest.raises(ArtifactError, match=f"holds '{name}': adapters are safetensors"):
        verify_manifest(adapter)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_manifest_without_an_adapter_is_refused(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    relist(adapter)
    with pytest.raises(ArtifactError, match=f"does not list '{name}'"):
        verify_manifest(adapter)


def test_a_subfolder_is_refused(adapter: Path) -> None:
    (adapter / "checkpoint").mkdir()
    with pytest.raises(ArtifactError, match="holds 'checkpoint', and an adapter is one flat folder"):
        verify_manifest(adapter)


def test_the_threshold_is_the_settings_or_the_versions_or_one_half(adapter: Path) -> None:
    older = verify_manifest(adapter)
    assert abstain_threshold(older) == 0.5
    fitted = write_manifest(adapter, older.model_copy(update={"abstain_below": 0.71}))
    assert verify_manifest(adapter) == fitted
    assert abstain_threshold(fitted) == 0.71
    assert abstain_threshold(fitted, 0.0) == 0.0
