"""The Host headers that a server answers: on loopback those of this machine alone.

A web page of another site can make a browser send requests to this machine under the site's own name (DNS rebinding);
such a request carries that name as its Host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from spec_rag.serving.api_errors import ApiError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def allowed_hosts(given: Sequence[str], bind_host: str) -> tuple[str, ...]:
    """The hosts that a server answers: those given, else this machine's names where it listens on loopback.

    Args:
        given: names without ports; "*" stands for all.
        bind_host: the address that the server listens on.

    Returns:
        Lower-case names; an empty tuple stands for all.
    """
    if "*" in given:
        return ()
    if given:
        return tuple(dict.fromkeys(one.lower() for one in given))
    if not is_loopback(bind_host):
        return ()
    written = f"[{bind_host}]" if ":" in bind_host else bind_host
    return tuple(dict.fromkeys((*LOOPBACK, written.lower())))


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(header: bytes | None, allowed: Sequence[str]) -> None:
    """Refuse a Host that is not allowed.

    Args:
        header: the Host header with or without a port.
        allowed: names without ports; empty allows all.

    Raises:
        ApiError: status 400.
    """
    if not allowed:
        return
    name = (header or b"").decode("latin-1").strip().lower()
    host, colon, port = name.rpartition(":")
    if colon and (port.isdigit() or not port) and not name.endswith("]"):
        name = host
    if name.rstrip(".") not in allowed:
        raise ApiError(
            400,
            f"Host {name!r:.100} is not allowed: use {', '.join(allowed)}, or start the server with --allowed-host.",
            code="host_not_allowed",
        )
