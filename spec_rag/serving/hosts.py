"""Check of the Host header against DNS rebinding: on loopback only names of this machine are accepted."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from spec_rag.serving.api_errors import ApiError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def allowed_hosts(hosts: Sequence[str], bind_host: str) -> tuple[str, ...]:
    """The accepted hosts in lower case: `hosts`, else the names of this machine if the server listens on loopback.

    Args:
        hosts: names without ports; "*" accepts all.
        bind_host: listening address.

    Returns:
        An empty tuple accepts all.
    """
    if "*" in hosts:
        return ()
    if hosts:
        return tuple(dict.fromkeys(host.lower() for host in hosts))
    if not is_loopback(bind_host):
        return ()
    written = f"[{bind_host}]" if ":" in bind_host else bind_host
    return tuple(dict.fromkeys((*LOOPBACK, written.lower())))


def is_loopback(host: str) -> bool:
    """Whether an address is a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(header: bytes | None, allowed: Sequence[str]) -> None:
    """Check a Host header, with or without a port.

    Args:
        header: the Host header.
        allowed: names without ports; empty accepts all.

    Raises:
        ApiError: status 400: the host is not allowed.
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
