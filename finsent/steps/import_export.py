"""Adapters out of the registry and into it: as folders that PEFT loads as they are."""

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from finsent.config import Config, ModelConfig
from finsent.errors import ArtifactError, InputError
from finsent.labels import LABELS
from finsent.models.manifest import MANIFEST, PROBE, Manifest, verify_manifest, write_manifest
from finsent.registry.evidence_store import load_evidence
from finsent.steps.context import Context
from finsent.workspace import Workspace

PROBE_TEXTS = (
    "$AAPL to the moon! Great earnings, buying more calls!",
    "guidance cut again, $XYZ down 8% after hours",
    "The Fed meets on Wednesday.",
    "not bad at all $TSLA",
    "🚀🚀🚀",
    "short squeeze or dead cat bounce? watching $GME",
    "RT @desk: dividend unchanged at 12 cents",
    "a",
)
"""What an imported adapter's logits are recorded on, for the round-trip proof of its registered version."""
_KEPT = ("adapter_model.safetensors", "adapter_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "vocab.txt", "merges.txt")
HUB = "hf://"
_WANTED = ("*.json", "*.safetensors", "vocab.txt", "merges.txt", "README.md")
"""What is fetched of an adapter on the Hub: no pickle, no code."""


@dataclass(frozen=True)
class Exported:
    """A version's adapter on disk."""

    model_version: str
    folder: Path
    files: dict[str, int]
    """Bytes by file name."""
    base: Path | None
    """Folder of the embedded base, beside the adapter's; None where the base is on the Hub or in a folder of the user's."""


@dataclass(frozen=True)
class Imported:
    """A registered adapter from elsewhere."""

    model_version: str
    run_id: str
    base: str
    origin: str
    """Name of its folder, or Hub id and commit."""


def export_adapter(context: Context, folder: Path, *, version: str | None = None) -> Exported:
    """Copy a version's adapter (the champion's by default) to `folder`, with its card and a manifest that covers it.

    An embedded base is on no hub, so it goes along, as `<folder>-base`: the card's snippet loads both.

    Raises:
        InputError: a folder to be written exists and is not empty.
        NoChampionError: no version is named and there is no champion.
        ArtifactError: the registered adapter does not match its manifest.
    """
    from finsent.reporting.model_card import render_model_card

    require_empty_dir(folder)
    registry = context.registry
    version = version or registry.require_champion()
    source = registry.adapter_path(version)
    manifest = verify_manifest(source)
    whole = folder.resolve()  # `.` and `..` have no name of their own
    base = whole.with_name(f"{whole.name}-base") if manifest.embedded is not None else None
    if base is not None:
        require_empty_dir(base)
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{whole.name}.", dir=whole.parent) as scratch:
        copy = Path(scratch) / "adapter"
        shutil.copytree(source, copy)
        card = render_model_card(manifest, load_evidence(registry, version), embedded_base=f"../{whole.name}-base")
        (copy / "README.md").write_text(card, encoding="utf-8")
        write_manifest(copy, manifest)
        verify_manifest(copy)
        if base is not None:
            move_into_place(_copy_base(context.workspace, manifest, Path(scratch) / "base"), base)
        move_into_place(copy, whole)  # last: where the adapter is, the export is whole
    return Exported(version, folder, {path.name: path.stat().st_size for path in sorted(folder.iterdir())}, base)


def require_empty_dir(folder: Path) -> None:
    """Refuse a target that holds anything.

    Raises:
        InputError: it exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} exists and is not an empty folder. Name a new one.")


def move_into_place(made: Path, folder: Path) -> None:
    """Move what was made to its place in one rename; `folder` is free, see `require_free`."""
    if folder.exists():
        folder.rmdir()
    made.rename(folder)


def _copy_base(home: Workspace, manifest: Manifest, folder: Path) -> Path:
    from finsent.models.base_model import fingerprint
    from finsent.models.embedded_base import build_embedded_base

    assert manifest.embedded is not None, "asked by the caller"  # noqa: S101 - tells the type checker
    shutil.copytree(build_embedded_base(manifest.embedded, home.bases), folder)
    if fingerprint(folder) != manifest.base_fingerprint:
        raise ArtifactError("the embedded base that this finsent builds is not the one the adapter was trained on. Refused.")
    return folder


def import_adapter(
    context: Context, source: str | Path, *, labels: Sequence[str] | None = None, revision: str | None = None
) -> Imported:
    """Register an adapter made elsewhere, after loading it on its base and recording its logits on probe texts.

    `source` is a folder, or a Hub id (`owner/name` or `hf://owner/name`, at `revision`). One with a manifest is taken as it
    is. A plain PEFT adapter gets a manifest: base from its `adapter_config.json` (`model.name` where that has none),
    quantisation and text length from the configuration, and `labels` as the stated order of its classes.

    Raises:
        InputError: no such folder, not on the Hub or not reachable, not an adapter, or the order of its classes is not
            stated.
        ArtifactError: a file is damaged, the adapter does not fit its base, or its classes stand in another order.
        BaseModelError: the base cannot be reached.
    """
    from finsent.models.adapter import load_adapter
    from finsent.registry.tracking import start_run

    config, home = context.config, context.workspace
    folder, origin, from_hub = _located(str(source), revision)
    home.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import.", dir=home.runs) as scratch:
        adapter = Path(scratch) / "adapter"
        if (folder / MANIFEST).is_file():
            if labels is not None:
                _require_order(folder, labels)  # the manifest's is ours, and a contradiction is not passed over
            _copy_sealed(folder, adapter, from_hub=from_hub)
            load_adapter(adapter, home)
        else:
            _convert_peft_adapter(config, home, folder, adapter, labels)
        manifest = verify_manifest(adapter)
        with start_run(config, home, kind="import", tags={"imported_from": origin}) as run_id:
            kept = home.runs / run_id / "adapter"
            kept.parent.mkdir(parents=True)
            adapter.rename(kept)
            version = context.registry.register(kept, run_id=run_id, profile=config.profile, tags={"imported": "true"})
    return Imported(version, run_id, manifest.base_name, origin)


def _located(source: str, revision: str | None) -> tuple[Path, str, bool]:
    """Folder of the adapter, fetched if need be, what to call where it is from, and whether that is the Hub."""
    from finsent.models.base_model import fetch_from_hub

    local, name = Path(source).expanduser(), source.removeprefix(HUB)
    if name == source and local.is_dir():
        if revision is not None:
            raise InputError(f"revision {revision!r} is for adapters on the Hub, and {source!r} is a folder here. Leave it out.")
        folder, origin = local, local.resolve().name
    elif name == source and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise InputError(
            f"no folder {source!r}. Give the one that holds adapter_config.json and adapter_model.safetensors, "
            "or a Hub id, owner/name."
        )
    else:
        folder, commit = fetch_from_hub(
            name,
            revision,
            _WANTED,
            what="adapter",
            correct="the name" if revision is None else "the name or --revision",
            instead="give a local folder that holds it",
            error=InputError,
        )
        origin = f"{name}@{commit}"
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise InputError(f"{source!r} is a whole model, and finsent takes adapters. A base is set as model.name.")
    return folder, origin, folder is not local


def _copy_sealed(folder: Path, adapter: Path, *, from_hub: bool) -> None:
    """Copy an adapter that has a manifest, and verify it; beside one from the Hub may lie what the Hub adds by itself."""
    if not from_hub:
        verify_manifest(folder)
        shutil.copytree(folder, adapter)
        return
    adapter.mkdir()
    for path in folder.iterdir():
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _WANTED):
            shutil.copyfile(path, adapter / path.name)
    verify_manifest(adapter)


def _convert_peft_adapter(config: Config, home: Workspace, folder: Path, adapter: Path, labels: Sequence[str] | None) -> None:
    """Copy a plain PEFT adapter, and give it tokenizer, manifest, probe and card."""
    from finsent.models.adapter import head_sha256, load_adapter, load_tokenizer
    from finsent.models.base_model import locate_base
    from finsent.models.predict import predict_logits
    from finsent.reporting.model_card import render_model_card

    described = _peft_config(folder)
    _require_order(folder, labels)
    name = str(described.get("base_model_name_or_path") or config.model.name)
    model = config.model if name == config.model.name else ModelConfig.model_validate(
        {**config.model.model_dump(), "name": name, "revision": described.get("revision"), "embedded": None}
    )  # fmt: skip
    base = locate_base(model, home)
    adapter.mkdir()
    for file in (*_KEPT, *_TOKENIZER):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, adapter / file)
    if not (adapter / "tokenizer_config.json").is_file():
        load_tokenizer(base, model, []).save_pretrained(adapter)
    tokenizer = _padded(adapter)
    manifest = _manifest(config, model, base.fingerprint, base.revision, int(tokenizer.pad_token_id))
    (adapter / "README.md").write_text(render_model_card(manifest), encoding="utf-8")
    write_manifest(adapter, manifest)
    loaded = load_adapter(adapter, home)
    logits = predict_logits(loaded, PROBE_TEXTS).tolist()
    probe = {"texts": list(PROBE_TEXTS), "logits": logits, "head_sha256": head_sha256(loaded.model)}
    (adapter / PROBE).write_text(json.dumps(probe), encoding="utf-8")
    write_manifest(adapter, manifest)


def _peft_config(folder: Path) -> dict[str, Any]:
    missing = [file for file in _KEPT if not (folder / file).is_file()]
    if missing:
        raise InputError(f"{str(folder)!r} lacks {missing[0]!r}: not a PEFT adapter in safetensors. Pickled ones are not taken.")
    try:
        described = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactError(
            f"adapter_config.json in {str(folder)!r} cannot be read ({error}). Fetch the adapter again."
        ) from error
    if not isinstance(described, dict) or described.get("task_type") != "SEQ_CLS":
        task = described.get("task_type") if isinstance(described, dict) else described
        raise InputError(f"adapter in {str(folder)!r} is for task {task!r}, and finsent takes SEQ_CLS, sequence classification.")
    return described


def _require_order(folder: Path, labels: Sequence[str] | None) -> None:
    if labels is None:
        raise InputError(
            f"nothing in {str(folder)!r} says in which order its classes stand, and finsent does not guess. "
            f"Look at its card and state it, e.g. --labels {','.join(LABELS)}."
        )
    if tuple(labels) != LABELS:
        raise ArtifactError(f"the adapter's classes stand in the order {tuple(labels)!r}, and finsent's in {LABELS!r}. Refused.")


def _padded(adapter: Path) -> Any:
    """The adapter's tokenizer; where it has no padding token, end-of-text pads, and that is written down."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(adapter)
    return tokenizer


def _manifest(config: Config, model: ModelConfig, fingerprint: str, revision: str | None, pad_token_id: int) -> Manifest:
    from finsent.provenance import lock_hash

    return Manifest(
        base_name=model.name,
        base_revision=revision,
        base_fingerprint=fingerprint,
        embedded=model.embedded,
        quantization=model.quantization,
        labels=LABELS,
        max_length=model.max_length,
        padding_side=model.padding_side,
        pad_token_id=pad_token_id,
        data_version=None,
        data_fingerprint=None,
        split_rule="unknown: trained elsewhere",
        config=config.model_dump(mode="json"),
        git_sha=None,
        lock_hash=lock_hash(),
    )
