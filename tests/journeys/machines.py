"""Machines on one cable: threads with networks of their own, at a switch from which each can be unplugged."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

CLONE_NEWNET = 0x40000000


class NoNetworks(Exception):
    """Networks cannot be made here. The message says why."""


class Machine:
    """A thread in a network of its own: what is started in it, and the sockets opened there, are on that machine.

    The network goes away with the last process or thread in it.
    """

    def __init__(self, address: str = "") -> None:
        self.address = address
        self._thread = ThreadPoolExecutor(1)
        self.do(_leave_the_network)
        self.id = self.do(threading.get_native_id)
        self.do(ip, "link set lo up")

    def begin(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        return self._thread.submit(function, *arguments, **named)

    def do(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return self.begin(function, *arguments, **named).result()

    def switch_off(self) -> None:
        self._thread.shutdown()


class Switch(Machine):
    """Connects machines. At the end of `with` all are switched off."""

    def __init__(self) -> None:
        super().__init__()
        self._machines: list[Machine] = []
        self.do(ip, "link add cable type bridge")
        self.do(ip, "link set cable up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in (*self._machines, self):
            machine.switch_off()

    def machine(self) -> Machine:
        """A new machine, plugged in."""
        machine = Machine(f"192.0.2.{len(self._machines) + 1}")
        self._machines.append(machine)
        port = _port(machine)
        self.do(ip, f"link add {port} type veth peer name eth0 netns {machine.id}")
        self.do(ip, f"link set {port} master cable up")
        machine.do(ip, f"address add {machine.address}/24 dev eth0")
        machine.do(ip, "link set eth0 up")
        return machine

    def unplug(self, machine: Machine) -> None:
        """From now on nothing gets through, and nobody is told."""
        self.do(ip, f"link set {_port(machine)} nomaster")

    def plug(self, machine: Machine) -> None:
        self.do(ip, f"link set {_port(machine)} master cable")


def _port(machine: Machine) -> str:
    return f"port{machine.id}"


def _leave_the_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise NoNetworks("there are no network namespaces")
    if libc.unshare(CLONE_NEWNET):
        raise NoNetworks(f"network namespaces cannot be made: {os.strerror(ctypes.get_errno())}")


def ip(command: str) -> None:
    try:
        done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NoNetworks("there is no program `ip`") from error
    if done.returncode:
        raise NoNetworks(f"`ip {command}` failed: {done.stderr.strip()}")
