"""The Ray cluster that scoring computes on: one that runs already, or one of this machine alone for the time of a run.

Ray is optional and heavy: it is imported when a run connects, and is untyped here, so that types are checked without it.
"""

import importlib
import importlib.util
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from finsent.config.model_schema import RayConfig
from finsent.errors import ConfigError, DeviceError, ServiceError, one_line, quoted

_log = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 5.0
_OWN_CLUSTER: Final = {
    "address": "local",
    "include_dashboard": False,
    "_node_ip_address": "127.0.0.1",  # nobody else reaches it
    "object_store_memory": 256 * 2**20,  # only texts and logits of chunks at work lie in it
}
_LONGEST_TEMP_DIR: Final = 40  # characters: Ray puts sockets below it, whose paths the system limits to 107


def require_ray(config: RayConfig) -> None:
    """See that Ray is installed, and that the head of a cluster may listen at the address.

    Raises:
        ConfigError: Ray is not installed.
        ServiceError: nobody listens there, or something else.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "scoring.engine=ray needs Ray, which is not installed here. Install it with `pip install 'finsent[ray]'`, or set "
            "scoring.engine=local."
        )
    if config.address is None or config.address == "auto":
        return
    host, _, port = config.address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as connection:
            if not os.environ.get("RAY_USE_TLS", "0").strip("0"):
                _require_grpc(connection)
    except (OSError, UnicodeError, OverflowError) as error:  # a name that IDNA does not take, a port above 65535
        raise ServiceError(_unreachable(config.address, error)) from error


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
        ConfigError: Ray is not installed, or the cluster runs another Ray or Python.
        ServiceError: the cluster does not answer.
        DeviceError: a cluster of this machine does not start.
    """
    require_ray(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")  # of 40 s; read at the import
    logging.getLogger("ray").setLevel(logging.ERROR)  # it has no handler but the last resort
    ray: Any = importlib.import_module("ray")
    with ExitStack() as stack:
        if config.address is not None:
            arguments: dict[str, Any] = {"address": config.address}
        else:
            arguments = {**_OWN_CLUSTER, "_temp_dir": str(stack.enter_context(_temp_dir()))}
        stack.callback(ray.shutdown)
        _connect(ray, config, arguments)
        yield ray


@contextmanager
def _temp_dir() -> Iterator[Path]:
    """A folder for sockets and logs of a cluster of our own; not in the home, whose path is often too long for a socket."""
    short = len(tempfile.gettempdir()) < _LONGEST_TEMP_DIR - len("/finsent-ray-12345678")
    folder = Path(tempfile.mkdtemp(prefix="finsent-ray-", dir=None if short else "/tmp"))  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
