"""The one place where what MLflow and the libraries under it raise becomes the project's errors: `translated` clients.

Retryable are outages: no connection, no answer in time, status 429 or 5xx, a locked or lost database. Rejected credentials, an
address at which no MLflow answers and a store's damaged file are not. What MLflow answers to a request is a `TrackingError`.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from finsent.errors import ConfigError, FinsentError, InputError, ServiceError, TrackingError, causes, one_line
from finsent.proxies import proxy_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_UNAUTHORISED: Final = frozenset({"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"})
_AWAY: Final = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED"}
)
_GENERIC: Final = frozenset({"", "INTERNAL_ERROR", "BAD_REQUEST", "TEMPORARILY_UNAVAILABLE"})
"""Codes that say nothing: what caused the error decides."""
_BUSY: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")
_BOTO: Final = frozenset({"boto3", "botocore", "s3transfer"})
_S3_AWAY: Final = re.compile(
    r"\((?:429|5\d\d|SlowDown|Throttling\w*|RequestLimitExceeded|RequestTimeout|InternalError|ServiceUnavailable)\) when calling|"
    "(?i:could not connect to the endpoint|timeout on endpoint|connection was closed|connection broken)"
)
_S3_MISSING: Final = re.compile(r"\((?:404|NoSuchKey)\) when calling")
_S3_DENIED: Final = re.compile(r"\((?:4\d\d|[A-Z]\w+)\) when calling|(?i:unable to locate credentials|partial credentials)")
"""What boto says, also where MLflow only quotes it, as of downloads."""


def public_uri(uri: str) -> str:
    """The URI without user name and password, fit for messages and pages."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.username or parts.password else uri


def failed_at_mlflow(error: Exception, what: str, *, answered: str, outage: str) -> FinsentError:
    """The error of a step that failed at MLflow: not to be retried where it answered, as about a deleted run.

    `answered` and `outage` say what to do in either case.
    """
    if isinstance(error, TrackingError):
        return TrackingError(f"{what} ({one_line(error)}). {answered}", error.error_code)
    return ServiceError(f"{what} ({one_line(error)}). {outage}")


def translated(client: "MlflowClient", uri: str) -> "MlflowClient":
    """The client, every method of which raises the project's errors."""
    return cast("MlflowClient", _Translated(client, uri))


class _Translated:
    """Hands every call on to a client, under `mlflow_errors`: no call site can forget it."""

    def __init__(self, client: "MlflowClient", uri: str) -> None:
        self._client = client
        self._errors = mlflow_errors(uri)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._errors(found) if callable(found) else found


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Raise the project's errors for MLflow's, inside a block or in a decorated function.

    Raises:
        ServiceError: the server or store at `uri` does not answer; the same call may succeed later.
        ConfigError: it rejects the credentials, or is no MLflow.
        InputError: its file is damaged, read-only or full.
        TrackingError: what it answers to this request.
    """
    try:
        yield
    except Exception as error:
        found = translate(error, uri)
        if found is None:
            raise
        raise found from error


def translate(error: BaseException, uri: str) -> FinsentError | None:
    """The project's error for what a call to MLflow at `uri` raised; None where it is neither MLflow's nor the network's."""
    from mlflow.exceptions import MlflowException, RestException
    from requests.exceptions import RequestException

    if isinstance(error, FinsentError):
        return None
    where = f"MLflow at {public_uri(uri)!r}"
    reason = one_line(error).replace(uri.rstrip("/"), public_uri(uri).rstrip("/"))
    code = str(getattr(error, "error_code", ""))
    chain = [*causes(error)] if code in _GENERIC else []
    if known := _object_store_error(error, where) or next(filter(None, (_cause_known(cause, where) for cause in chain)), None):
        return known
    answered = next((cause.response for cause in chain if isinstance(cause, RequestException)), None)
    if answered is not None:  # of the artifact store, where MLflow hands on what requests raises
        code, away = _code_of(answered.status_code), answered.status_code >= 500
    else:
        internal = isinstance(error, RestException) and code == "INTERNAL_ERROR"
        away = any(map(_is_outage, chain)) or internal or "failed with error code 5" in reason
    if away or code in _AWAY:
        return ServiceError(f"{where} does not answer ({reason}). Look at the server and its log, then try again.")
    if code in _UNAUTHORISED:
        advice = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        advice += "." if code != "PERMISSION_DENIED" else " to an account that may, or add this host name to --allowed-hosts."
        return ConfigError(f"{where} rejected the request ({reason}). {advice}")
    unread = type(error).__module__ == "google.protobuf.json_format" or "valid JSON format" in reason
    if unread or (code == "ENDPOINT_NOT_FOUND" and answered is None):
        return no_mlflow(uri, reason)
    foreign = isinstance(error, MlflowException | RequestException)
    return TrackingError(f"{where} rejected a request: {reason}.", code or "INTERNAL_ERROR") if foreign else None


def no_mlflow(uri: str, reason: str) -> ConfigError:
    """The error that another program answers at the address."""
    return ConfigError(f"what answers at {public_uri(uri)!r} is no MLflow ({reason}). Correct MLFLOW_TRACKING_URI.")


def unanswered(uri: str, error: Exception, advice: str) -> FinsentError:
    """The error that a request for the server's health failed; without what was said, which may quote a proxy's password."""
    proxy, reason = proxy_of(uri), type(error).__name__
    if isinstance(error, ValueError):  # of the URL library
        what = f"the proxy {proxy!r}, through which it is asked, is" if proxy else "it is"
        remedy = "HTTP_PROXY or HTTPS_PROXY" if proxy else "MLFLOW_TRACKING_URI"
        return ConfigError(f"MLflow at {public_uri(uri)!r} cannot be asked: {what} no address ({reason}). Correct {remedy}.")
    reason += f"; asked through the proxy {proxy}" if proxy else ""
    return ServiceError(f"the MLflow server at {public_uri(uri)!r} does not answer ({reason}). {advice}")


def _object_store_error(error: BaseException, where: str) -> FinsentError | None:
    """The error of an S3 store that clients read and write themselves; None where it is not that store's."""
    boto = [cause for cause in causes(error) if type(cause).__module__.partition(".")[0] in _BOTO]
    kinds = {kind.__name__ for cause in boto for kind in type(cause).__mro__}
    said, reason = " ".join(map(str, [error, *boto])), one_line(boto[-1] if boto else error)
    store = f"the artifact store of {where}"
    if "SSLError" in kinds:
        return ConfigError(f"the certificate of {store} is not accepted ({reason}). Name its authority's file in AWS_CA_BUNDLE.")
    if kinds & {"HTTPClientError", "ConnectionError", "IncompleteReadError"} or _S3_AWAY.search(said):
        return ServiceError(f"{store} does not answer ({reason}). Try again; its address is MLFLOW_S3_ENDPOINT_URL.")
    if _S3_MISSING.search(said):
        return TrackingError(f"{store} lacks what is asked for ({reason}).", "RESOURCE_DOES_NOT_EXIST")
    if boto or _S3_DENIED.search(said):
        return ConfigError(
            f"{store} rejected the request ({reason}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to an account that may "
            "read and write there, and MLFLOW_S3_ENDPOINT_URL where the store is not Amazon's."
        )
    return None


def _cause_known(cause: BaseException, where: str) -> FinsentError | None:
    """The error where its cause alone says all: a store's file, a certificate."""
    from requests.exceptions import SSLError

    reason = one_line(cause)
    if isinstance(cause, SSLError):
        advice = "Name its authority's file in MLFLOW_TRACKING_SERVER_CERT_PATH."
        return ConfigError(f"the certificate of {where} is not accepted ({reason}). {advice}")
    if not isinstance(cause, sqlite3.Error) or isinstance(cause, sqlite3.IntegrityError):
        return None
    kind = getattr(cause, "sqlite_errorname", None) or "SQLITE_ERROR"
    if kind.startswith(_BUSY):
        return ServiceError(f"the store of {where} is held by another process ({reason}). Try again.")
    if kind == "SQLITE_READONLY_ROLLBACK":
        return InputError(
            f"the store of {where} cannot be used ({kind}): a process was killed while it wrote, and what it began has to be "
            "undone. Run this once where its folder can be written."
        )
    return InputError(
        f"the store of {where} cannot be used ({reason}, {kind}). Look at its file, the permissions and the space on its disk; a "
        "damaged file is to be replaced by a backup."
    )


def _is_outage(cause: BaseException) -> bool:
    from requests.exceptions import RequestException
    from sqlalchemy.exc import InterfaceError, OperationalError
    from urllib3.exceptions import HTTPError

    return isinstance(cause, RequestException | HTTPError | ConnectionError | TimeoutError | InterfaceError | OperationalError)


def _code_of(status: int) -> str:
    from mlflow.exceptions import ErrorCode, get_error_code

    return str(ErrorCode.Name(get_error_code(status)))
