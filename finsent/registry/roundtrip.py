"""The proof that the registry gives back what was trained: a new process loads the version and repeats training's probe.

`python -m finsent.registry.roundtrip NAME VERSION` is that process. It starts from the registry alone: a home of its own
without cached adapters or bases, where an embedded base is built anew. It writes one JSON object to stdout.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finsent.errors import ArtifactError, FinsentError, Refused
from finsent.home import Home, resolve_home
from finsent.model.manifest import PROBE
from finsent.registry.versions import adapter_path

_HEADS = ("score", "classifier")
_TIMEOUT = 1800  # seconds; an 8B base from a cold disk takes minutes


@dataclass(frozen=True)
class RoundTrip:
    """What the new process found."""

    max_logit_difference: float
    """Largest difference to training's logits on the probe texts."""
    head_hash_equal: bool
    """The loaded model's head has the very weights of the registered file."""
    padding_invariant: bool
    """Padding on either side gives the same logits, within tolerance."""
    batch_invariant: bool
    """One text at a time gives the same logits as all at once, within tolerance."""
    max_padding_difference: float
    max_batch_difference: float
    tolerance: float
    probes: int
    head_sha256: str
    seconds: float


@dataclass(frozen=True)
class Found:
    """What the new process reports; logits [probes, 3]."""

    logits: list[list[float]]
    other_side: list[list[float]]
    one_by_one: list[list[float]]
    head_sha256: str
    file_head_sha256: str


def prove(home: Home, name: str, version: str, *, max_logit_difference: float) -> RoundTrip:
    """Run the proof and hold its logits against training's; `max_logit_difference` is the tolerance of both invariances.

    Raises:
        Refused: the new process could not load the version; its reason is quoted.
    """
    started = time.monotonic()
    probe = json.loads((adapter_path(home, name, version) / PROBE).read_text(encoding="utf-8"))
    found = _in_new_process(home, name, version)
    trained = np.asarray(probe["logits"], dtype=np.float64)
    logits = np.asarray(found.logits, dtype=np.float64)
    if logits.shape != trained.shape:
        raise Refused(
            f"round trip of version {version!r}: {logits.shape} logits came back for a probe of {trained.shape}. Refused."
        )
    padding = _largest(logits, found.other_side)
    batch = _largest(logits, found.one_by_one)
    return RoundTrip(
        max_logit_difference=_largest(logits, probe["logits"]),
        head_hash_equal=found.head_sha256 == found.file_head_sha256,
        padding_invariant=padding <= max_logit_difference,
        batch_invariant=batch <= max_logit_difference,
        max_padding_difference=padding,
        max_batch_difference=batch,
        tolerance=max_logit_difference,
        probes=len(trained),
        head_sha256=found.head_sha256,
        seconds=round(time.monotonic() - started, 3),
    )


def _largest(logits: Any, other: Any) -> float:
    """NaN where either holds one: no comparison with it is true, so it proves nothing."""
    return float(np.abs(logits - np.asarray(other, dtype=np.float64)).max())


def _in_new_process(home: Home, name: str, version: str) -> Found:
    environment = {
        **os.environ,
        "FINSENT_HOME": str(home.root),
        "FINSENT_TABLES": home.tables_url,
        "MLFLOW_TRACKING_URI": home.tracking_uri,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    command = [sys.executable, "-m", "finsent.registry.roundtrip", name, version]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise Refused(f"round trip of version {version!r} of {name!r}: no answer within {_TIMEOUT} s. Refused.") from error
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise Refused(f"round trip of version {version!r} of {name!r}: a new process cannot load it ({last}). Refused.")
    return Found(**json.loads(run.stdout))


def load_and_repeat(home: Home, name: str, version: str) -> Found:
    """The new process's work: fetch, load, repeat the probe in three ways, hash the head."""
    from finsent.model.adapter import load_adapter
    from finsent.model.engine import predict_logits
    from finsent.registry.tracking import connect
    from finsent.registry.versions import download_adapter, get_version

    with tempfile.TemporaryDirectory(prefix="finsent-roundtrip-") as scratch:
        own = replace(home, root=Path(scratch) / "home")
        own.root.mkdir()
        # the client's local store stays the home's: only caches are new
        folder = download_adapter(home, get_version(connect(home), name, version), Path(scratch))
        texts = json.loads((folder / PROBE).read_text(encoding="utf-8"))["texts"]
        loaded = load_adapter(folder, own)
        other = "right" if loaded.manifest.padding_side == "left" else "left"
        every = 1 << 30  # tokens: all texts in one batch
        return Found(
            logits=predict_logits(loaded, texts, token_budget=every).tolist(),
            other_side=predict_logits(loaded, texts, token_budget=every, padding_side=other).tolist(),
            one_by_one=predict_logits(loaded, texts, token_budget=1).tolist(),
            head_sha256=_hash_weights(_loaded_head(loaded.model)),
            file_head_sha256=_hash_weights(_saved_head(folder)),
        )


def _loaded_head(model: Any) -> Iterable[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        if ".modules_to_save.default." in name and _is_head(name):
            yield name.replace(".modules_to_save.default.", "."), parameter


def _saved_head(folder: Path) -> Iterable[tuple[str, Any]]:
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        for name in saved.keys():  # noqa: SIM118 - not a dict
            if _is_head(name):
                yield name, saved.get_tensor(name)


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split(".")) and "lora_" not in name


def _hash_weights(weights: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in the order of the names."""
    found = sorted(weights, key=lambda item: item[0])
    if not found:  # two empty hashes would agree and prove nothing
        raise ArtifactError(f"no classification head among {_HEADS}: what was registered cannot classify. Refused.")
    digest = hashlib.sha256()
    for name, tensor in found:
        values = tensor.detach().float().cpu().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _main(arguments: list[str]) -> int:
    """Only the JSON object goes to stdout, whatever libraries print there."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        found = load_and_repeat(resolve_home(), *arguments)
    except FinsentError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
