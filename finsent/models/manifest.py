"""The manifest of an adapter: its base, precision, padding, labels, data and configuration, and each file's SHA-256.

All of these are part of the model's identity; a mismatch is refused at load. Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finsent.config import EmbeddedBase, Quantization
from finsent.errors import ArtifactError, one_line
from finsent.files import atomic_write
from finsent.labels import LABELS

MANIFEST = "manifest.json"
PROBE = "probe.json"
POOLING = "last token that is not padding"
"""The token whose hidden state the head reads."""
_UNSAFE_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".py"}
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


class Manifest(BaseModel):
    """Everything that must agree between training and loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: int = 1
    base_name: str
    base_revision: str | None
    base_fingerprint: str
    embedded: EmbeddedBase | None
    quantization: Quantization
    labels: tuple[str, ...]
    max_length: int
    padding_side: str
    pad_token_id: int
    pooling: str = POOLING
    data_version: int | None
    data_fingerprint: str | None
    split_rule: str
    sources: tuple[str, ...] | None = None
    """Addresses of what was read into the data; None where that is not on record."""
    config: dict[str, Any]
    git_sha: str | None
    lock_hash: str
    temperature: float = Field(default=1.0, gt=0)
    abstain_below: float | None = None
    """Confidence below which the version abstains, fitted on validation rows; None where the target was not reached."""
    files: dict[str, str] = {}


class Probe(BaseModel):
    """Texts, and what the trained model made of them; a registered version must repeat it."""

    model_config = ConfigDict(frozen=True)

    texts: list[str] = Field(min_length=1)
    logits: list[tuple[float, float, float]]
    head_sha256: str | None = None


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Record the digest of every file in `folder` and write the manifest last, in one rename.

    Raises:
        ArtifactError: the folder holds a pickle or code.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    _reject_unsafe_files(folder, [path.name for path in paths])
    full = manifest.model_copy(update={"files": {path.name: file_sha256(path) for path in paths}})
    atomic_write(folder / MANIFEST, full.model_dump_json(indent=2))
    return full


def verify_manifest(folder: Path) -> Manifest:
    """Read the manifest and check every file against it.

    Raises:
        ArtifactError: no manifest, an unknown form, a file changed, missing or added, a subfolder, a pickle or code, no
            adapter in safetensors, or another label order.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(
            f"{str(folder)!r} holds no {MANIFEST}: not an adapter of finsent's. `finsent import` takes in others."
        )
    try:
        manifest = Manifest.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{str(path)!r} is damaged ({one_line(error)}). Fetch or train the version again.") from error
    _check_files(folder, manifest)
    if manifest.labels != LABELS:
        raise ArtifactError(f"the adapter's label order is {manifest.labels!r}, and this finsent's is {LABELS!r}. Refused.")
    return manifest


def read_probe(folder: Path) -> Probe:
    """Read what an adapter's folder records of its logits.

    Raises:
        ArtifactError: nothing, or something else.
    """
    path = folder / PROBE
    try:
        return Probe.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{str(path)!r} is damaged ({one_line(error)}). Fetch or train the version again.") from error


def _check_files(folder: Path, manifest: Manifest) -> None:
    if nested := sorted(item.name for item in folder.iterdir() if not item.is_file()):
        raise ArtifactError(f"{str(folder)!r} holds {nested[0]!r}, and an adapter is one flat folder of files. Refused.")
    present = {item.name: item for item in folder.iterdir() if item.name != MANIFEST}
    _reject_unsafe_files(folder, sorted({*present, *manifest.files}))
    for name in ADAPTER_FILES:
        if name not in manifest.files:
            raise ArtifactError(f"the manifest in {str(folder)!r} does not list {name!r}: there is no adapter in it. Refused.")
    for name, digest in manifest.files.items():
        if name not in present:
            raise ArtifactError(f"{str(folder)!r} lacks {name!r}, which its manifest lists. Fetch or train the version again.")
        if file_sha256(present[name]) != digest:
            raise ArtifactError(f"{name!r} in {str(folder)!r} is not the file its manifest lists (SHA-256 differs). Refused.")
    if extra := sorted(set(present) - set(manifest.files)):
        raise ArtifactError(f"{str(folder)!r} holds {extra[0]!r}, which its manifest does not list. Refused.")


def _reject_unsafe_files(folder: Path, names: Iterable[str]) -> None:
    """Reject pickles and code even if the manifest lists them: PEFT would unpickle an `adapter_model.bin`."""
    if unsafe := [name for name in names if Path(name).suffix.lower() in _UNSAFE_SUFFIXES]:
        raise ArtifactError(f"{str(folder)!r} holds {unsafe[0]!r}: adapters are safetensors and JSON only. Refused.")
