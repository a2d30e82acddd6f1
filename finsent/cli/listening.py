"""The ports of a home's servers, which `finsent up` takes itself and hands to each server that it starts."""

import errno
import socket
from collections.abc import Mapping
from typing import Final

from finsent.errors import InputError

_BACKLOG: Final = 2048  # connections that wait while a server starts; uvicorn's own


def listen(host: str, ports: Mapping[str, int]) -> dict[str, list[socket.socket]]:
    """Take the servers' ports, for the life of this process: nobody else can answer there, while one starts or starts again.

    Raises:
        InputError: a port is named twice or taken; the message names the port, who wants it and the option that changes it.
    """
    if len(set(ports.values())) < len(ports):
        raise InputError(f"the servers need different ports, and both were given {next(iter(ports.values()))}.")
    taken: dict[str, list[socket.socket]] = {}
    for name, port in ports.items():
        try:
            taken[name] = _listen(host, port)
        except OSError as error:
            for one in (one for sockets in taken.values() for one in sockets):
                one.close()
            raise InputError(
                f"port {port} on {host!r}, wanted for {name}, cannot be used: {error.strerror}. Stop what holds it, "
                f"or give another with --{name}-port. Nothing was started."
            ) from error
    return taken


def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets at all addresses of the host that this machine has: `localhost` may be two."""
    found: list[socket.socket] = []
    absent = None
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        try:
            found.append(socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::"))
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                for one in found:
                    one.close()
                raise
            absent = error
    if absent and not found:
        raise absent
    return found
