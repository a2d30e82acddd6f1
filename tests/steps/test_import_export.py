"""Adapters from the Hub (its cache, since nothing is fetched here): registered, or refused with what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finsent.errors import InputError
from finsent.labels import LABELS
from finsent.models.adapter import load_adapter
from finsent.models.import_export import PROBE_TEXTS
from finsent.models.manifest import verify_manifest
from finsent.models.predict import predict_logits
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.steps.context import make_context
from finsent.steps.import_export import export_adapter, import_adapter

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading


def published(adapter: Path, folder: Path, base: str) -> Path:
    """What PEFT writes and people publish: no manifest, and beside it what the Hub and trainers add."""
    folder.mkdir()
    for name in ("adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(adapter / name, folder / name)
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}), encoding="utf-8")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    return folder


@pytest.mark.parametrize("given", ["tester/adapter", "hf://tester/adapter"])
def test_a_published_adapter_comes_in_by_its_hub_id(
    on_llama: Callable[..., Any], on_hub: Callable[[Path, str], str], llama_base: Path, tmp_path: Path, given: str
) -> None:
    base_commit = on_hub(llama_base, "tester/small-llama")
    at = on_llama("tester/small-llama")
    commit = on_hub(published(at.adapter, tmp_path / "published", "tester/small-llama"), "tester/adapter")
    imported = import_adapter(make_context(at.config, at.home), given, labels=LABELS)
    assert imported.origin == f"tester/adapter@{commit}"
    kept = Registry(at.home, "finsent").adapter_path(imported.model_version)
    manifest = verify_manifest(kept)
    assert (manifest.base_name, manifest.base_revision) == ("tester/small-llama", base_commit)
    assert not [path for path in kept.iterdir() if path.suffix == ".bin"]
    record = tracking.connect(at.home).get_run(imported.run_id)
    assert record.data.tags["imported_from"] == f"tester/adapter@{commit}"
    ours, theirs = (predict_logits(load_adapter(folder, at.home), PROBE_TEXTS) for folder in (at.adapter, kept))
    assert np.array_equal(ours, theirs)


def test_an_exported_adapter_comes_back_from_the_hub_with_its_manifest(
    on_llama: Callable[..., Any], on_hub: Callable[[Path, str], str], tmp_path: Path
) -> None:
    at, folder = on_llama(), tmp_path / "exported"
    export_adapter(make_context(at.config, at.home), folder, version=at.version)
    before = verify_manifest(folder)
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")  # the Hub adds it to every repository
    commit = on_hub(folder, "tester/exported")
    imported = import_adapter(make_context(at.config, at.home), "tester/exported", revision=commit)
    assert verify_manifest(Registry(at.home, "finsent").adapter_path(imported.model_version)) == before


def test_what_is_not_there_is_said_with_what_to_do(
    on_llama: Callable[..., Any], on_hub: Callable[[Path, str], str], tmp_path: Path
) -> None:
    at = on_llama()
    for given, revision, said in (
        ("nobody/nothing", None, r"adapter 'nobody/nothing' cannot be reached .* not in the local cache.*local folder"),
        ("hf://not a name", None, "neither a folder here nor a valid Hub id"),
        ("no such folder", None, "no folder 'no such folder'.*or a Hub id"),
        (str(at.adapter), "main", "revision 'main' is for adapters on the Hub"),
    ):
        with pytest.raises(InputError, match=said):
            import_adapter(make_context(at.config, at.home), given, revision=revision, labels=LABELS)
    on_hub(published(at.adapter, tmp_path / "published", "base"), "tester/adapter")
    with pytest.raises(InputError, match="cannot be reached"):  # offline, of that revision nothing is here
        import_adapter(make_context(at.config, at.home), "tester/adapter", revision="v2", labels=LABELS)
    with pytest.raises(InputError, match=r"state it, e\.g\. --labels"):
        import_adapter(make_context(at.config, at.home), "tester/adapter")
