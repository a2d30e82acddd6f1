"""Identity of a base model: a digest of its whole configuration and of every byte of its weights, remembered by file."""

import hashlib
import json
import logging
import os
import struct
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from finsent.errors import BaseModelError, one_line
from finsent.files import atomic_write
from finsent.logging_setup import track
from finsent.models.manifest import file_sha256

_log = logging.getLogger(__name__)

PREFIX: Final = "v2:"
"""Of a digest of everything. One without it is of a release that looked at samples, see `_sampled_fingerprint`."""
CACHE: Final = "fingerprints.json"
_CACHE_FORMAT: Final = 1
_SAVED_BY: Final = ("transformers_version", "_name_or_path")
"""Keys of a `config.json` that say by what and from where it was saved."""
_REMEMBERED: Final = 1 << 26
"""Bytes from which a file's digest is remembered; hashing less takes a tenth of a second."""
_CLOCK_TICK: Final = 0.1
"""Seconds that a file system's clock may lag: a change so soon after a file's time could leave that time as it is."""
_SAMPLE: Final = 1 << 20


def fingerprint(folder: Path, cache: Path | None = None) -> str:
    """SHA-256 over `config.json`, all weights, and what says which tensor lies in which file; some 10 s for 16 GB.

    The tokenizer is left out: an adapter has its own, under the digests of its manifest. The names of the Hub's cache are
    not trusted either, though they are digests: they name what was downloaded, not what the file holds now.

    Args:
        folder: Of the base.
        cache: File that remembers the digest of each large file together with its path, inode, size and both its times;
            None remembers nothing. One that is damaged or cannot be written costs the time to hash, nothing else.

    Raises:
        BaseModelError: a file cannot be read, or changes meanwhile.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kept = {key: value for key, value in config.items() if key not in _SAVED_BY}
        weights = sorted(folder.glob("*.safetensors"))
        # transformers would put an adapter in the same folder on the base by itself
        small = sorted((*folder.glob("*.safetensors.index.json"), *folder.glob("adapter_config.json")))
        digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
        for path, found in zip((*small, *weights), (*map(file_sha256, small), *_hash_weights(weights, cache)), strict=True):
            digest.update(f"{path.name}={found};".encode())
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise BaseModelError(f"base model in {str(folder)!r} cannot be read: {one_line(error)}. Fetch it again.") from error
    return PREFIX + digest.hexdigest()


def is_same_base(folder: Path, found: str, recorded: str) -> bool:
    """Whether the base in `folder`, of fingerprint `found`, is the one that a manifest records, by an older rule if need be."""
    if recorded.startswith(PREFIX):
        return found == recorded
    if _sampled_fingerprint(folder) != recorded:
        return False
    _log.warning(
        "the manifest is of an older finsent, whose fingerprint covers only samples of the base's weights and four keys of its "
        "configuration; train or import the adapter again for one that covers all of it"
    )
    return True


def _hash_weights(files: Sequence[Path], cache: Path | None) -> list[str]:
    """SHA-256 of each file, remembered where it has not changed."""
    remembered = _read_cache(cache)
    states = {path: _file_state(path) for path in files}
    fresh = [path for path in files if remembered.get(_key(path), ("", None))[1] != states[path]]
    found = {path: remembered[_key(path)][0] for path in files if path not in fresh}
    large = [path for path in fresh if path.stat().st_size >= _REMEMBERED]
    if large:
        size = sum(path.stat().st_size for path in large)
        _log.info("hashing %.1f GB of weights in %s, once", size / 1e9, str(large[0].parent))
        if max(max(path.stat().st_ctime, path.stat().st_mtime) for path in large) > time.time() - _CLOCK_TICK:
            time.sleep(_CLOCK_TICK)  # written just now: see `_CLOCK_TICK`
    started = time.time()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashing frees Python's global lock
        hashed = pool.map(file_sha256, fresh)
        found |= zip(fresh, track(hashed, description="hashing", total=len(fresh), unit="file"), strict=True)
    if changed := next((path for path in fresh if _file_state(path) != states[path]), None):
        raise ValueError(f"{changed.name!r} changed while it was read; wait until it is complete")
    lasting = [path for path in large if max(states[path][2:]) < (started - _CLOCK_TICK / 2) * 1e9]
    if cache is not None and lasting:
        _write_cache(cache, {**_read_cache(cache), **{_key(path): (found[path], states[path]) for path in lasting}})
    return [found[path] for path in files]


def _key(path: Path) -> str:
    return str(path.resolve())


def _file_state(path: Path) -> list[int]:
    """What changes with a file's content: inode, size, time of its content and of its inode, which no program can set back."""
    state = path.stat()
    return [state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _read_cache(cache: Path | None) -> dict[str, tuple[str, list[int]]]:
    """Digest and state by path; empty where there is no cache, or one that is damaged or of another format."""
    try:
        written: Any = json.loads(cache.read_text(encoding="utf-8")) if cache is not None else {}
        return {
            path: (str(digest), list(state))
            for path, (digest, state) in (written["files"] if written.get("format") == _CACHE_FORMAT else {}).items()
            if len(digest) == 64
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return {}


def _write_cache(cache: Path, files: Mapping[str, tuple[str, list[int]]]) -> None:
    try:
        atomic_write(cache, json.dumps({"format": _CACHE_FORMAT, "files": files}, indent=1))
    except OSError as error:
        _log.warning("digests of the base's weights cannot be remembered (%s): they are computed at every start", error)


def _sampled_fingerprint(folder: Path) -> str:
    """The rule of manifests up to 0.1: four keys, and of each weight file its header, size, and first and last MiB."""
    digest = hashlib.sha256()
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        digest.update(f"{key}={shape.get(key)};".encode())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
            digest.update(stream.read(min(length, size)))
            digest.update(stream.read(_SAMPLE))
            stream.seek(-min(_SAMPLE, size), 2)
            digest.update(stream.read(_SAMPLE))
            digest.update(str(size).encode())
    return digest.hexdigest()
