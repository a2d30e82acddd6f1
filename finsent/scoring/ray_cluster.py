"""The Ray cluster that scoring computes on: one that runs already, or one of this machine alone for the time of a run.

Ray is optional and heavy: it is imported when a run connects, and is untyped here, so that types are checked without it.
"""

import fcntl
import importlib
import importlib.util
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from finsent.config.model_schema import RayConfig
from finsent.errors import ConfigError, DeviceError, ServiceError, one_line, quoted

_log = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 5.0
_OWN_CLUSTER: Final = {
    "address": "local",
    "include_dashboard": False,
    "object_store_memory": 256 * 2**20,  # only texts and logits of chunks at work lie in it
}
_TOKEN_SINCE: Final = (2, 59)  # Ray asks who connects to a cluster of a process's own for a token
_ASK_SECONDS: Final = 5.0
_LOST_SECONDS: Final = 15.0  # a head may start again; Ray's C++ ends the driver after 60 s without one, past Python
_FOLDER_PREFIX: Final = "finsent-ray-"
_SETTLED_SECONDS: Final = 60.0  # a younger folder may be one whose process is about to lock it
_LONGEST_TEMP_DIR: Final = 40  # characters: Ray puts sockets below it, whose paths the system limits to 107


def require_ray(config: RayConfig) -> None:
    """See that Ray is installed, and that the head of a cluster may listen at the address.

    Raises:
        ConfigError: Ray is not installed, or too old for a cluster of the run's own.
        ServiceError: nobody listens there, or something else.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "scoring.engine=ray needs Ray, which is not installed here. Install it with `pip install 'finsent[ray]'`, or set "
            "scoring.engine=local."
        )
    if config.address is None:
        require_token_version(version("ray"))
    elif config.address != "auto":
        try:
            _ask_head(config.address)
        except (OSError, UnicodeError, OverflowError) as error:  # a name that IDNA does not take, a port above 65535
            raise ServiceError(_unreachable(config.address, error)) from error


def require_token_version(ray_version: str) -> None:
    """Refuse a Ray that would let anyone who reaches the ports of the run's own cluster run code.

    Raises:
        ConfigError: it is older.
    """
    found = re.match(r"(\d+)\.(\d+)", ray_version)
    if found is None or tuple(map(int, found.groups())) < _TOKEN_SINCE:
        raise ConfigError(
            f"Ray {quoted(ray_version)} does not ask for a token, so that anyone who reaches this machine could run code in the "
            "cluster of the run. Install Ray 2.59 or later with `pip install --upgrade 'finsent[ray]'`, set scoring.ray.address, "
            "or set scoring.engine=local."
        )


def watch_head(address: str, seen: float) -> float:
    """When the head at `address` last answered, by the monotonic clock; asked if it was not `seen` for some seconds.

    Raises:
        ServiceError: it has not answered for so long that Ray would soon end this process, without a word to its caller.
    """
    now = time.monotonic()
    if now - seen < _ASK_SECONDS:
        return seen
    try:
        _ask_head(address)
    except OSError as error:
        if now - seen < _LOST_SECONDS:
            return seen
        raise ServiceError(
            f"the head of the Ray cluster at {quoted(address)} has not answered for {now - seen:.0f} s: {one_line(error)}. "
            "What was committed stands; run this again to go on."
        ) from error
    return now


def _ask_head(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as connection:
        if not os.environ.get("RAY_USE_TLS", "0").strip("0"):
            _require_grpc(connection)


def _require_grpc(connection: socket.socket) -> None:
    """Refuse what does not begin with a frame of settings (type 4), as HTTP/2 does: Ray would ask its dashboard for minutes."""
    connection.settimeout(_CONNECT_SECONDS)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    if (connection.recv(9) + bytes(9))[3] != 4:
        raise ConnectionError("what listens there is no head of a Ray cluster, whose port is 6379 if none was chosen")


def _unreachable(address: str, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {quoted(address)} (scoring.ray.address): {one_line(error)}. Check `ray status` on its head "
        "node, and start this machine as one of its nodes with `ray start --address=HOST:6379`."
    )


@contextmanager
def ray_cluster(config: RayConfig) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at `config.address`; left out, to one of this machine that the context ends.

    Raises:
        ConfigError: Ray is not installed, or this process uses it already, or the cluster runs another Ray or Python.
        ServiceError: the cluster does not answer.
        DeviceError: a cluster of this machine does not start.
    """
    require_ray(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # of 40 s; read at the import
    ray: Any = importlib.import_module("ray")
    logging.getLogger("ray").setLevel(logging.ERROR)  # the import sets it; it has no handler but the last resort
    if ray.is_initialized():
        raise ConfigError(
            "this process is connected to a Ray cluster already, and scoring makes a connection of its own. Call ray.shutdown() "
            "before, or score in another process, with scoring.ray.address if it shall be on that cluster."
        )
    with ExitStack() as stack:
        if config.address is not None:
            arguments: dict[str, Any] = {"address": config.address}
        else:
            arguments = {**_OWN_CLUSTER, "_temp_dir": str(stack.enter_context(_temp_dir()))}
            stack.enter_context(_token_required(config))
        stack.callback(ray.shutdown)  # before the connection, which is nobody else's: one that fails midway leaves processes
        _connect(ray, config, arguments)
        yield ray


@contextmanager
def _token_required(config: RayConfig) -> Iterator[None]:
    """Only who reads a file of this user's connects to a cluster started meanwhile: Ray listens on all interfaces.

    Ray itself has no way to listen on loopback alone: it replaces a loopback address by another one of the machine.
    """
    # unset, Ray asks for a token; "token" is not read by all of it after the import
    before = os.environ.pop("RAY_AUTH_MODE", None)
    try:
        if not os.environ.get("RAY_AUTH_TOKEN") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            try:
                make_token(Path.home() / ".ray" / "auth_token")
            except OSError as error:
                raise _failed(config, error) from error
        yield
    finally:
        os.environ.pop("RAY_AUTH_MODE", None)
        if before is not None:
            os.environ["RAY_AUTH_MODE"] = before


def make_token(path: Path) -> None:
    """A token where Ray looks for one, which no other user reads; Ray itself writes it with the permissions of any file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    try:
        os.write(descriptor, secrets.token_hex(32).encode())
    finally:
        os.close(descriptor)


@contextmanager
def _temp_dir() -> Iterator[Path]:
    """A folder for sockets and logs of a cluster of our own; not in the home, whose path is often too long for a socket."""
    short = len(tempfile.gettempdir()) < _LONGEST_TEMP_DIR - len(f"/{_FOLDER_PREFIX}12345678")
    parent = Path(tempfile.gettempdir() if short else "/tmp")  # noqa: S108
    sweep_folders(parent)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_folders(parent: Path) -> None:
    """Remove this user's folders of clusters whose process was killed: those that nobody holds."""
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):  # gone meanwhile, or held by its process
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or time.time() - found.st_mtime < _SETTLED_SECONDS:
                continue
            with _locked(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; a lock, unlike the number of a process, ends with it and is never another's."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _connect(ray: Any, config: RayConfig, arguments: dict[str, Any]) -> None:
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        # Neither workers' output nor Ray's own lines go to the terminal: stdout is the command's alone.
        ray.init(**arguments, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:
        if "ersion mismatch" not in str(error):
            raise _failed(config, error) from error
        raise ConfigError(
            f"the Ray cluster at {quoted(config.address)} (scoring.ray.address) runs another Ray or Python: {one_line(error)}. "
            "Results are the same only with the same on all nodes: use one image for them, or install those versions here."
        ) from error
    finally:
        if in_main and before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the process past what finsent does then


def _failed(config: RayConfig, error: Exception) -> ServiceError | DeviceError:
    if config.address is not None:
        return ServiceError(_unreachable(config.address, error))
    return DeviceError(f"Ray does not start on this machine: {one_line(error)}. Set scoring.engine=local to score without it.")
