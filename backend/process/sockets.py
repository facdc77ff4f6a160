"""Listening sockets, bound or handed over (systemd's LISTEN_FDS), and news for whoever started us (NOTIFY_SOCKET)."""

from __future__ import annotations

import array
import errno
import os
import secrets
import shutil
import socket
import sys
import tempfile
from contextlib import suppress

from backend.process.ports import owner_of

# The first handed-over descriptor, fixed by sd_listen_fds(3).
FIRST_FD = 3
# Connections the kernel holds for us until they are accepted.
BACKLOG = 2048
# The name of the pipe by which a supervisor says that the predecessor is gone.
TURN = "turn="


class SocketError(Exception):
    """A socket cannot be had. The message is one sentence that names the setting to change."""


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A socket that listens on `host` and `port`: the one handed over for them, or else a new one.

    Port 0 takes any free port. `setting` is what changes the port (AGENT_API_PORT); it names the socket, too. A
    supervisor is given a copy, so that the next process can be handed it and no connection is refused in between.
    """
    name = f"{setting}={host.replace(':', '_')}@{port}"
    listener = _handed_over(name) or _bind(host, port, setting)
    keep(name, listener.fileno())
    return listener


def url(scheme: str, listener: socket.socket) -> str:
    """The address of a listening socket as a person types it: `http://127.0.0.1:8006`."""
    host: str
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def keep(name: str, descriptor: int) -> bool:
    """Have the supervisor hold a descriptor for this process's successor, who takes it by `kept`.

    False where there is none who would. The name needs a `=`, which those that systemd makes up have not.
    """
    notify(descriptor, FDSTORE="1", FDNAME=name)
    return "NOTIFY_SOCKET" in os.environ


def kept(name: str) -> int | None:
    """The descriptor that a predecessor had held under this name, or None."""
    return _take_descriptor(name)


def notify(*descriptors: int, **state: str) -> None:
    """Send `state` to NOTIFY_SOCKET, as sd_notify(3) does; nothing happens without one.

    A supervisor that is gone or a message that is too long is no reason to fail.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    message = "\n".join(f"{name}={value}" for name, value in state.items()).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(reachable(address))
        sender.sendmsg([message], rights if descriptors else [])


def bind_privately(listener: socket.socket, purpose: str) -> str:
    """Bind a unix socket to an address of its own, and return that; `forget_address` is for the end.

    On Linux it is an abstract one, `@purpose-…`, which leaves no file behind. Anybody may write to it, so senders have
    to show who they are. Elsewhere it is a path in a folder that only this user may enter.
    """
    if sys.platform == "linux":
        address = f"@{purpose}-{secrets.token_hex(8)}"
    else:
        address = f"{tempfile.mkdtemp()}/{purpose}"
    listener.bind(reachable(address))
    return address


def reachable(address: str) -> str:
    """The form of an address that `connect` and `bind` take: an abstract one begins with `@` only where it is shown."""
    return "\0" + address[1:] if address.startswith("@") else address


def forget_address(address: str) -> None:
    """Delete what an address of `bind_privately` has left in the file system."""
    if not address.startswith("@"):
        shutil.rmtree(os.path.dirname(address), ignore_errors=True)


def wait_for_turn() -> None:
    """Where a predecessor is still at work: say that we could begin, and wait until it is gone."""
    descriptor = _take_descriptor(TURN)
    if descriptor is not None:
        notify(X_WAITING="1")
        os.read(descriptor, 1)
        os.close(descriptor)


def _handed_over(name: str) -> socket.socket | None:
    descriptor = _take_descriptor(name)
    if descriptor is None:
        return None
    listener = socket.socket(fileno=descriptor)
    listener.listen(BACKLOG)
    return listener


def _take_descriptor(name: str) -> int | None:
    """The handed-over descriptor of this name; or the only one, if its name is none of ours (a systemd unit's)."""
    names = handed_over_names()
    if name in names:
        position = names.index(name)
    elif len(names) == 1 and "=" not in names[0] and name != TURN:
        position = 0
    else:
        return None
    os.set_inheritable(FIRST_FD + position, False)
    return FIRST_FD + position


def handed_over_names() -> list[str]:
    """The names of the descriptors that were handed to this process, in their order."""
    # A shell in between is the leader of our process group, and the one that the variable was set for.
    if os.environ.get("LISTEN_PID") not in (str(os.getpid()), str(os.getpgrp())):
        return []
    count = int(os.environ.get("LISTEN_FDS") or 0)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return (names + ["unknown"] * count)[:count]


def _bind(host: str, port: int, setting: str) -> socket.socket:
    try:
        family, address = resolve(host, port)
    except OSError as error:
        raise SocketError(_no_such_host(host, setting, error)) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        _prepare(listener, dual=host == "::")
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketError(_refused(host, port, setting, error)) from error
    return listener


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str | int | bytes, ...]]:
    """The first address of `host`, IPv4 before IPv6: `localhost` is where people and browsers look for it.

    Raises OSError when the name is unknown.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = sorted(found, key=lambda each: each[0] != socket.AF_INET)[0]
    return family, address


def _prepare(listener: socket.socket, *, dual: bool) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual)


def _refused(host: str, port: int, setting: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken{owner_of(port)}: stop it, or set {setting}."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} is reserved for the system: set {setting} to one from 1024 to 65535."
    return _no_such_host(host, setting, error)


def _no_such_host(host: str, setting: str, error: OSError) -> str:
    where = setting.replace("PORT", "HOST")
    return f"{where} is {host!r}, which is no address of this machine ({error.strerror}): 127.0.0.1 is always one."
