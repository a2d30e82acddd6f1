"""Adapters from elsewhere, from a folder or the Hub: located, copied, and given a manifest and recorded logits."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from finsent.config import Config, ModelConfig
from finsent.errors import ArtifactError, InputError, one_line
from finsent.labels import LABELS
from finsent.models.manifest import PROBE, Manifest, read_probe, verify_manifest, write_manifest
from finsent.models.peft_support import require_sound_weights, unsupported_reason
from finsent.provenance import lock_hash
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
"""What an imported adapter's logits are recorded on, for the round-trip check of its registered version."""
_KEPT = ("adapter_model.safetensors", "adapter_config.json")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "vocab.txt", "merges.txt")
HUB = "hf://"
_WANTED = ("*.json", "*.safetensors", "vocab.txt", "merges.txt", "README.md")
"""What is fetched of an adapter on the Hub: no pickle, no code."""


def locate_adapter(source: str, revision: str | None) -> tuple[Path, str, bool]:
    """Folder of an adapter, downloaded if need be; the name of its origin; whether that is the Hub.

    Args:
        source: A folder, or a Hub id, `owner/name` or `hf://owner/name`.
        revision: Of an adapter on the Hub.

    Raises:
        InputError: no such folder, not on the Hub or not reachable, or a whole model.
    """
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


def copy_sealed_adapter(folder: Path, adapter: Path, *, from_hub: bool) -> None:
    """Copy an adapter that has a manifest, and verify it and its probe; of one from the Hub, without the files that the Hub adds.

    Raises:
        ArtifactError: a file is damaged.
    """
    if not from_hub:
        verify_manifest(folder)
        read_probe(folder)
        shutil.copytree(folder, adapter)
        return
    adapter.mkdir()
    for path in folder.iterdir():
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _WANTED):
            shutil.copyfile(path, adapter / path.name)
    verify_manifest(adapter)
    read_probe(adapter)


def convert_peft_adapter(
    config: Config,
    home: Workspace,
    folder: Path,
    adapter: Path,
    labels: Sequence[str] | None,
    render_card: Callable[[Manifest], str],
) -> None:
    """Copy a plain PEFT adapter to `adapter`, and give it tokenizer, manifest, card, and the logits of probe texts.

    The base is that of its `adapter_config.json`, or `model.name` where that has none; quantisation and text length are the
    configuration's; `labels` is the stated order of its classes.

    Raises:
        InputError: not an adapter, or the order of its classes is not stated.
        ArtifactError: the adapter does not fit its base, or its classes stand in another order.
        BaseModelError: the base cannot be reached.
    """
    from finsent.models.adapter import head_sha256, load_adapter, load_tokenizer
    from finsent.models.base_model import locate_base
    from finsent.models.predict import predict_logits

    described = _peft_config(folder)
    require_label_order(folder, labels)
    require_sound_weights(folder / "adapter_model.safetensors", len(LABELS))
    name = str(described.get("base_model_name_or_path") or config.model.name)
    given = {"name": name, "revision": described.get("revision"), "embedded": None}
    try:
        model = config.model if name == config.model.name else ModelConfig.model_validate({**config.model.model_dump(), **given})
    except ValueError as error:
        raise ArtifactError(
            f"the base named in {str(folder / 'adapter_config.json')!r} cannot be one ({one_line(error)}). Refused."
        ) from error
    base = locate_base(model, home)
    adapter.mkdir()
    for file in (*_KEPT, *_TOKENIZER):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, adapter / file)
    if not (adapter / "tokenizer_config.json").is_file():
        load_tokenizer(base, model, []).save_pretrained(adapter)
    tokenizer = _padded_tokenizer(adapter)
    manifest = _adapter_manifest(config, model, base.fingerprint, base.revision, int(tokenizer.pad_token_id))
    (adapter / "README.md").write_text(render_card(manifest), encoding="utf-8")
    write_manifest(adapter, manifest)
    loaded = load_adapter(adapter, home)
    logits = predict_logits(loaded, PROBE_TEXTS).tolist()
    probe = {"texts": list(PROBE_TEXTS), "logits": logits, "head_sha256": head_sha256(loaded.model)}
    (adapter / PROBE).write_text(json.dumps(probe), encoding="utf-8")
    write_manifest(adapter, manifest)


def _peft_config(folder: Path) -> dict[str, Any]:
    from finsent.models.adapter import read_peft_config

    missing = [file for file in _KEPT if not (folder / file).is_file()]
    if missing:
        raise InputError(f"{str(folder)!r} lacks {missing[0]!r}: not a PEFT adapter in safetensors. Pickled ones are not taken.")
    described = read_peft_config(folder)
    if (task := described.get("task_type")) != "SEQ_CLS":
        raise InputError(f"adapter in {str(folder)!r} is for task {task!r}, and finsent takes SEQ_CLS, sequence classification.")
    if reason := unsupported_reason(described):
        raise ArtifactError(f"adapter in {str(folder)!r}: {reason}. Refused.")
    return described


def require_label_order(folder: Path, labels: Sequence[str] | None) -> None:
    """Require the stated order of an adapter's classes to be finsent's.

    Raises:
        InputError: it is not stated.
        ArtifactError: it is another one.
    """
    if labels is None:
        raise InputError(
            f"nothing in {str(folder)!r} says in which order its classes stand, and finsent does not guess. "
            f"Look at its card and state it, e.g. --labels {','.join(LABELS)}."
        )
    if tuple(labels) != LABELS:
        raise ArtifactError(f"the adapter's classes stand in the order {tuple(labels)!r}, and finsent's in {LABELS!r}. Refused.")


def _padded_tokenizer(adapter: Path) -> Any:
    """The adapter's tokenizer; where it has no padding token, end-of-text pads, and that is written down."""
    from finsent.models.peft_support import read_tokenizer

    tokenizer = read_tokenizer(adapter, ArtifactError)
    if tokenizer.init_kwargs.get("pad_token") is None:
        tokenizer.save_pretrained(adapter)
    return tokenizer


def _adapter_manifest(config: Config, model: ModelConfig, fingerprint: str, revision: str | None, pad_token_id: int) -> Manifest:

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


def copy_embedded_base(home: Workspace, manifest: Manifest, folder: Path) -> Path:
    """Copy the embedded base that an adapter was trained on to `folder`, for a manifest with an embedded base.

    Raises:
        ArtifactError: this finsent builds another base.
    """
    from finsent.models.embedded_base import build_embedded_base
    from finsent.models.fingerprint import fingerprint, is_same_base

    assert manifest.embedded is not None, "required of the caller"  # noqa: S101 - tells the type checker
    shutil.copytree(build_embedded_base(manifest.embedded, home.bases), folder)
    if not is_same_base(folder, fingerprint(folder), manifest.base_fingerprint):
        raise ArtifactError("the embedded base that this finsent builds is not the one the adapter was trained on. Refused.")
    return folder
