"""Objects of an S3 store: found by key, folder or glob, and opened as streams.

Who we are and where the store is comes from the ordinary environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN (or the files and machine roles that the AWS SDK knows), AWS_DEFAULT_REGION or AWS_REGION,
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL. A store that does not answer is given up after half a minute.
"""

import glob
import os
import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from finsent.data.validation.did_you_mean import did_you_mean, format_names
from finsent.data.validation.row_validation import shorten
from finsent.errors import InputError

if TYPE_CHECKING:
    from pyarrow import fs

S3: Final = "s3://"
_CONNECT_SECONDS: Final = 5.0
_REQUEST_SECONDS: Final = 10.0
_ATTEMPTS: Final = 2
_BUFFER_BYTES: Final = 4 * 1024 * 1024  # bytes; every read is a request of its own
_ACCESS_DENIED_WORDS: Final = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE",
    "EXPIRED",
    "TOKEN",
    "HTTP status 403",
    "HTTP status 401",
)


def find_objects(uri: str, endings: Collection[str]) -> list[str]:
    """Addresses that `s3://bucket/key`, a folder or a glob stands for, in order.

    Args:
        uri: The address.
        endings: In a folder, only keys with one of these endings count (`.gz` and `.zst` after it aside).

    Raises:
        InputError: no such bucket or key, no permission, or the store does not answer.
    """
    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not bucket or glob.has_magic(bucket) or "@" in bucket:
        raise InputError(f"{uri!r} names no bucket. Give {S3}bucket/key; credentials come from the environment, not the address.")
    try:
        store = _store(bucket)
        return _find(store, bucket, key.rstrip("/"), uri, endings)
    except OSError as error:
        raise InputError(describe_error(uri, error)) from error


def _find(store: "fs.FileSystem", bucket: str, key: str, uri: str, endings: Collection[str]) -> list[str]:
    from pyarrow import fs

    path = f"{bucket}/{key}" if key else bucket
    kind = store.get_file_info(path).type
    if kind == fs.FileType.File:
        return [S3 + path]
    if kind == fs.FileType.Directory:
        inside = sorted(item.path for item in store.get_file_info(fs.FileSelector(path, recursive=True)) if item.is_file)
        found = [item for item in inside if _ending(item) in endings]
        if not found:
            raise InputError(f"folder {uri!r} holds nothing that ends in {format_names(list(endings))} (or .gz, .zst after it).")
        return [S3 + item for item in found]
    if store.get_file_info(bucket).type == fs.FileType.NotFound:
        raise InputError(
            f"there is no bucket {bucket!r} at {_store_name()}. Check its name, and AWS_ENDPOINT_URL for a store that is not Amazon's."
        )
    if glob.has_magic(key):
        from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]

        matches = sorted(str(item) for item in ArrowFSWrapper(store).glob(path))
        found = [item.path for item in store.get_file_info(matches) if item.is_file]
        if not found:
            raise InputError(f"no object matches {uri!r}. Check the pattern.")
        return [S3 + item for item in found]
    beside = store.get_file_info(fs.FileSelector(str(PurePosixPath(path).parent), allow_not_found=True))
    raise InputError(
        f"there is no object {uri!r}. Check the key.{did_you_mean(PurePosixPath(key).name, [item.base_name for item in beside])}"
    )


def open_stream(uri: str) -> tuple[Any, str]:
    """An object's bytes from the first to the last, and its ETag.

    Raises:
        OSError: it cannot be read; `explain` says what that means.
    """
    path = uri.removeprefix(S3)
    stream = _store(path.partition("/")[0]).open_input_stream(path, compression=None, buffer_size=_BUFFER_BYTES)
    return stream, _etag(stream)


def open_file(uri: str) -> tuple[Any, str]:
    """An object to read here and there, and its ETag.

    Raises:
        OSError: it cannot be read; `explain` says what that means.
    """
    path = uri.removeprefix(S3)
    file = _store(path.partition("/")[0]).open_input_file(path)
    return file, _etag(file)


def check_unchanged(uri: str, etag: str) -> None:
    """Objects are read piece by piece, so that one that was replaced meanwhile would be half the old and half the new.

    Raises:
        InputError: the object is another one now.
    """
    file, now = open_file(uri)
    file.close()
    if now != etag:
        raise InputError(
            f"{uri!r} was replaced while it was read (ETag {etag} became {now}). Nothing was written; ingest it again."
        )


def _etag(stream: Any) -> str:
    return str((stream.metadata() or {}).get("ETag", b"").decode().strip('"'))


def _store(bucket: str) -> "fs.FileSystem":
    from pyarrow import fs

    endpoint = _endpoint()
    scheme, _, host = endpoint.rpartition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def _store_name() -> str:
    parts = urlsplit(_endpoint())
    return repr(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}") if parts.netloc else "Amazon S3"


def describe_error(uri: str, error: Exception) -> str:
    """What went wrong with an object, for people."""
    said = str(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no object {uri!r}. Check the key."
    if "NO_SUCH_BUCKET" in said or ("Bucket" in said and "not found" in said):
        return f"there is no bucket for {uri!r} at {_store_name()}. Check its name; AWS_ENDPOINT_URL names a store that is not Amazon's."
    if any(word in said for word in _ACCESS_DENIED_WORDS):
        given = "AWS_ACCESS_KEY_ID is set" if os.environ.get("AWS_ACCESS_KEY_ID") else "AWS_ACCESS_KEY_ID is not set"
        return (
            f"{uri!r}: {_store_name()} gives no access ({given}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to those of an "
            "account that may list and read the bucket."
        )
    if "NETWORK_CONNECTION" in said or "curl" in said.lower():
        detail = said.rpartition("Details: ")[2] or said
        return f"{uri!r}: {_store_name()} does not answer ({shorten(detail, 160)}). Check AWS_ENDPOINT_URL and the network."
    return f"{uri!r} cannot be read from {_store_name()}: {shorten(said, 300)}. Check address, region and AWS_ENDPOINT_URL."


def _ending(path: str) -> str:
    return PurePosixPath(re.sub(r"\.(gz|zst)$", "", path.lower())).suffix
