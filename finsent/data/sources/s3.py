"""Finds and opens objects of an S3 store.

Credentials and endpoint come from the standard environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN (or
the files and machine roles that the AWS SDK knows), AWS_DEFAULT_REGION or AWS_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.
Requests to a store that does not answer time out after half a minute.
"""

import glob
import os
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from finsent.data.sources.records import FORMATS, format_suffix
from finsent.errors import FinsentError, InputError, ServiceError, did_you_mean, format_names, shorten

if TYPE_CHECKING:
    from pyarrow import fs

S3: Final = "s3://"
_CONNECT_SECONDS: Final = 5.0
_REQUEST_SECONDS: Final = 10.0
_ATTEMPTS: Final = 2
_BUFFER_BYTES: Final = 4 * 1024 * 1024  # each read is one request
_ACCESS_DENIED: Final = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE",
    "EXPIRED",
    "TOKEN",
    "HTTP status 403",
    "HTTP status 401",
)
_OUTAGE: Final = re.compile(
    "NETWORK_CONNECTION|curl|REQUEST_TIMEOUT|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|HTTP status 5",
    re.IGNORECASE,
)


class ReplacedWhileRead(InputError):  # noqa: N818 - the name says what happened
    """An object became another one while it was read in pieces; the new one may be whole."""


def find_objects(uri: str, left_out: list[str] | None = None) -> list[str]:
    """Addresses of the objects; see `list_objects`."""
    return [S3 + found.path for found in list_objects(uri, left_out)]


def list_objects(uri: str, left_out: list[str] | None = None, *, allow_none: bool = False) -> "list[fs.FileInfo]":
    """The objects that `s3://bucket/key`, a folder or a glob stands for, in order; of a folder, keys of a known format.

    With `allow_none` a folder (with a slash at its end, if it is empty) and a glob may stand for none. `left_out` receives the
    other keys of a folder.

    Raises:
        InputError: no such bucket or key, or access denied.
        ServiceError: the store does not answer.
    """
    import pyarrow as pa
    from pyarrow import fs

    bucket, _, key = uri.removeprefix(S3).partition("/")
    if not bucket or glob.has_magic(bucket) or "@" in bucket:
        raise InputError(f"{uri!r} names no bucket. Give {S3}bucket/key; credentials come from the environment, not the address.")
    is_folder = not key or key.endswith("/")
    key = key.rstrip("/")
    path = f"{bucket}/{key}" if key else bucket
    try:
        store = _store(bucket)
        item = store.get_file_info(path)
        if item.type == fs.FileType.File:
            return [item]
        if item.type == fs.FileType.Directory:
            found = _objects_below(store, path, [] if left_out is None else left_out)
            if not found and not allow_none:
                raise InputError(
                    f"folder {uri!r} holds nothing that ends in {format_names(list(FORMATS))} (or .gz, .zst after it)."
                )
            return found
        if store.get_file_info(bucket).type == fs.FileType.NotFound:
            raise InputError(_no_bucket(bucket))
        if is_folder and allow_none:
            return []
        if glob.has_magic(key):
            from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]

            matches = sorted(str(item) for item in ArrowFSWrapper(store).glob(path))
            found = [item for item in store.get_file_info(matches) if item.is_file]
            if not found and not allow_none:
                raise InputError(f"no object matches {uri!r}. Check the pattern.")
            return found
        parent = fs.FileSelector(str(PurePosixPath(path).parent), allow_not_found=True)
        siblings = [item.base_name for item in store.get_file_info(parent)]
    except (OSError, pa.ArrowException) as error:
        raise store_error(uri, error) from error
    raise InputError(f"there is no object {uri!r}. Check the key.{did_you_mean(PurePosixPath(key).name, siblings)}")


def _objects_below(store: "fs.FileSystem", folder: str, left_out: list[str]) -> "list[fs.FileInfo]":
    """Those of a known format; the keys of the others, from the folder on, are added to `left_out`."""
    from pyarrow import fs

    inside = [item for item in store.get_file_info(fs.FileSelector(folder, recursive=True)) if item.is_file]
    inside.sort(key=lambda item: item.path)
    left_out += [item.path.removeprefix(f"{folder}/") for item in inside if format_suffix(item.path) not in FORMATS]
    return [item for item in inside if format_suffix(item.path) in FORMATS]


def open_object(uri: str, *, random_access: bool) -> tuple[Any, str]:
    """An object, as a stream or with random access, and its ETag.

    Raises:
        OSError, ArrowException: it cannot be read; see `store_error`.
    """
    path = uri.removeprefix(S3)
    store = _store(path.partition("/")[0])
    if random_access:
        file = store.open_input_file(path)
    else:
        file = store.open_input_stream(path, compression=None, buffer_size=_BUFFER_BYTES)
    return file, str((file.metadata() or {}).get("ETag", b"").decode().strip('"'))


def find_etag(uri: str) -> str:
    """An object's ETag, by one request.

    Raises:
        InputError: it is not there, or access is denied.
        ServiceError: the store does not answer.
    """
    import pyarrow as pa

    try:
        file, etag = open_object(uri, random_access=True)
    except (OSError, pa.ArrowException) as error:
        raise store_error(uri, error) from error
    file.close()
    return etag


def check_unchanged(uri: str, etag: str) -> None:
    """Check that an object was not replaced while it was read in pieces.

    Raises:
        ReplacedWhileRead: its ETag is another one now.
    """
    file, now = open_object(uri, random_access=True)
    file.close()
    if now != etag:
        raise ReplacedWhileRead(
            f"{uri!r} was replaced while it was read (ETag {etag} became {now}). Nothing was written; ingest it again."
        )


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


def _no_bucket(bucket: str) -> str:
    return (
        f"there is no bucket {bucket!r} at {_store_name()}. Check its name; AWS_ENDPOINT_URL names a store other than Amazon's."
    )


def store_error(uri: str, error: Exception) -> FinsentError:
    """What to raise for a failure to read an object."""
    said = str(error)
    if isinstance(error, FileNotFoundError):
        return InputError(f"there is no object {uri!r}. Check the key.")
    if "NO_SUCH_BUCKET" in said or ("Bucket" in said and "not found" in said):
        return InputError(_no_bucket(uri.removeprefix(S3).partition("/")[0]))
    if any(word in said for word in _ACCESS_DENIED):
        given = "AWS_ACCESS_KEY_ID is set" if os.environ.get("AWS_ACCESS_KEY_ID") else "AWS_ACCESS_KEY_ID is not set"
        return InputError(
            f"{uri!r}: {_store_name()} denies access ({given}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to those of an "
            "account that may list and read the bucket."
        )
    if _OUTAGE.search(said):
        detail = said.rpartition("Details: ")[2] or said
        return ServiceError(
            f"{uri!r}: {_store_name()} does not answer ({shorten(detail, 160)}). Check AWS_ENDPOINT_URL and the network."
        )
    return InputError(
        f"{uri!r} cannot be read from {_store_name()}: {shorten(said, 300)}. Check address, region and AWS_ENDPOINT_URL."
    )
