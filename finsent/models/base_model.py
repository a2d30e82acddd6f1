"""Base models: found in a local folder, fetched from the Hub or built, then loaded and quantised."""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finsent.config import ModelConfig
from finsent.engine.host_memory import host_memory
from finsent.engine.memory_planner import GIB, NF4_BYTES, read_shape
from finsent.engine.merge import HEADS
from finsent.environ import whole_number
from finsent.errors import BaseModelError, DeviceError, FinsentError, ServiceError, causes, one_line
from finsent.labels import ID2LABEL, LABEL2ID, LABELS
from finsent.models.embedded_base import build_embedded_base
from finsent.models.fingerprint import CACHE, fingerprint
from finsent.models.quantization import disable_cpu_repacking, quantization_config
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)
_BASE_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
)


@dataclass(frozen=True)
class BaseFolder:
    """A base model on disk, in the Hub's layout."""

    folder: Path
    revision: str | None
    """Commit of the Hub, where it came from there."""
    fingerprint: str
    """Identity of its configuration and weights, see `fingerprint`."""


def locate_base(config: ModelConfig, home: Workspace) -> BaseFolder:
    """Find the base: build the embedded one, take a local folder, or fetch it from the Hub.

    Raises:
        BaseModelError: not there, not reachable, gated, or without safetensors weights.
        DeviceError: the embedded one cannot be written.
    """
    if config.embedded is not None:
        folder, revision = build_embedded_base(config.embedded, home.bases), None
    elif Path(config.name).expanduser().is_dir():
        folder, revision = Path(config.name).expanduser().resolve(), None
    else:
        folder, revision = fetch_from_hub(
            config.name,
            config.revision,
            _BASE_FILES,
            what="base model",
            correct="model.name" if config.revision is None else "model.name or model.revision",
            instead="set model.name to a local folder that holds it",
            error=BaseModelError,
        )
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"base model {config.name!r}: {str(folder)!r} lacks config.json or *.safetensors. Give a Hub id or a complete folder."
        )
    return BaseFolder(folder, revision, fingerprint(folder, home.bases / CACHE))


def fetch_from_hub(
    name: str, revision: str | None, wanted: Sequence[str], *, what: str, correct: str, instead: str, error: type[FinsentError]
) -> tuple[Path, str | None]:
    """Snapshot folder of the files that match `wanted`, without subfolders, and its commit; the local cache is asked first.

    Args:
        name: Hub id, `owner/name`.
        revision: Branch, tag or commit; None for the default branch.
        wanted: Patterns of file names.
        what: Kind of thing, for messages.
        correct: Setting to correct where name or revision is wrong, for messages.
        instead: What to do where the Hub cannot be reached, for messages.
        error: Class to raise.

    Raises:
        FinsentError: as `error`: gated, unknown, no such revision, invalid id, or neither in the cache nor to be asked for.
        ServiceError: the Hub does not answer, or is busy; the same call may succeed later.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted), ignore_patterns=["*/*"]))
    except GatedRepoError as cause:
        raise error(f"{what} {name!r} is gated. Accept its licence on its Hub page and set HF_TOKEN.") from cause
    except RevisionNotFoundError as cause:
        raise error(f"{what} {name!r} has no revision {revision!r}. Correct {correct}.") from cause
    except RepositoryNotFoundError as cause:
        raise error(
            f"{what} {name!r} is not on the Hub (or private: set HF_TOKEN), nor a local folder. Correct {correct}."
        ) from cause
    except HFValidationError as cause:
        raise error(f"{what} {name!r} is neither a folder here nor a valid Hub id. Correct {correct}.") from cause
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as cause:
        raise (ServiceError if _is_outage(cause) else error)(
            f"{what} {name!r} cannot be reached ({type(cause).__name__}) and is not in the local cache. "
            f"Connect to the Hub, or {instead}."
        ) from cause
    return folder, folder.name if folder.parent.name == "snapshots" else revision


def _is_outage(error: BaseException) -> bool:
    """Whether the Hub, or the way to it, failed: a setting that forbids to ask it is none."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    for cause in causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return False
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code == httpx.codes.TOO_MANY_REQUESTS or cause.response.is_server_error
        if isinstance(cause, ConnectionError | TimeoutError | httpx.TransportError):
            return True
    return False


def load_base(base: BaseFolder, config: ModelConfig, device: str) -> Any:
    """The base with a fresh three-class head, quantised as configured, its weights frozen, on `device`.

    Raises:
        BaseModelError: transformers cannot load the folder as a sequence classifier.
        DeviceError: memory does not hold it.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    release_unused_models()
    remedy = "Delete that folder: it is built again." if config.embedded else "Fetch it again, or set model.name to another."
    dtype = getattr(torch, config.quantization.compute_dtype)
    if device == "cpu":
        _require_memory(base, config, dtype.itemsize)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            base.folder,
            output_loading_info=True,
            num_labels=len(LABELS),
            id2label=dict(ID2LABEL),
            label2id=dict(LABEL2ID),
            quantization_config=quantization_config(config.quantization),
            dtype=dtype,
            device_map={"": device},
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # a base with a head of other classes gets a fresh one
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError(
            f"{device} has no memory for base model {config.name!r}. Free memory there, set model.quantization.kind=nf4, or "
            "take a smaller base."
        ) from error
    # RuntimeError: weights of other shapes; AttributeError and TypeError: a configuration with values of other kinds
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError, AttributeError, TypeError) as error:
        raise BaseModelError(
            f"base model {config.name!r} in {str(base.folder)!r} does not load as a sequence classifier: {one_line(error)}. "
            + remedy
        ) from error
    drawn = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    if body := sorted(name for name in drawn if not any(part in HEADS for part in name.split("."))):
        # transformers draws them at random, at every load anew, and only warns
        raise BaseModelError(
            f"base model {config.name!r} in {str(base.folder)!r} lacks weights, such as {body[0]!r} ({len(body)} in all), or has "
            f"them in other shapes. {remedy}"
        )
    disable_cpu_repacking(model)
    model.requires_grad_(requires_grad=False)
    model.config.use_cache = False
    # A base may be of another kind of head; exported with the adapter merged, servers would take sigmoids for its classes.
    if model.config.problem_type not in {None, "single_label_classification"}:
        model.config.problem_type = "single_label_classification"
    return model


def _require_memory(base: BaseFolder, config: ModelConfig, itemsize: int) -> None:
    """Check that the weights alone do not exceed this machine's or container's memory: the kernel would kill the process."""
    shape = read_shape(base.folder)
    if shape is None:
        return
    needed = shape.body * (NF4_BYTES if config.quantization.kind == "nf4" else itemsize) + shape.embedding * itemsize
    total, free = host_memory()
    if needed > total:
        raise DeviceError(
            f"base model {config.name!r} takes {needed / GIB:.1f} GiB, and this machine or container has {total / GIB:.1f} GiB. "
            "Raise its limit, set model.quantization.kind=nf4, or take a smaller base."
        )
    if needed > free:
        _log.warning("base model %r takes %.1f GiB, and %.1f GiB are free", config.name, needed / GIB, free / GIB)


def release_unused_models() -> None:
    """Free models that nothing refers to any more: PEFT models are reference cycles, and two 8B bases do not fit."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def cpu_supports_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself; emulation is some twenty times slower than float32."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def pick_device() -> str:
    """`cuda` with the local rank where there is a GPU, else `cpu`."""
    return f"cuda:{whole_number('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
