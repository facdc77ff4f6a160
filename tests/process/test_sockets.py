"""Listening sockets and news to the supervisor, against real sockets and real child processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.process.sockets import SocketError, listen, notify, url
from tests.process.running_scripts import ROOT

LISTEN = """
import os, sys
from backend.process.sockets import listen
os.environ["LISTEN_PID"] = str(os.getpid())
listener = listen("127.0.0.1", int(sys.argv[1]), setting="AGENT_API_PORT")
print(listener.fileno(), listener.getsockname()[1], os.get_inheritable(listener.fileno()))
"""


@pytest.fixture
def taken() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    return listener.getsockname()[1]


def test_a_new_socket_accepts_on_a_free_port() -> None:
    with listen("127.0.0.1", 0, setting="AGENT_API_PORT") as listener:
        assert url("http", listener) == f"http://127.0.0.1:{port_of(listener)}"
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        client.close()
        accepted.close()


def test_a_taken_port_names_its_holder_and_the_setting(taken: socket.socket) -> None:
    port = port_of(taken)
    with pytest.raises(SocketError) as caught:
        listen("127.0.0.1", port, setting="AGENT_API_PORT")
    sentence = str(caught.value)
    assert sentence.startswith(f"port {port} is taken by pid {os.getpid()} (")
    assert sentence.endswith("): stop it, or set AGENT_API_PORT.")


def test_a_host_that_is_not_here_names_the_setting() -> None:
    for host in ("no.such.host.invalid", "192.0.2.1"):
        with pytest.raises(SocketError, match=f"AGENT_API_HOST is '{host}', which is no address of this machine"):
            listen(host, 0, setting="AGENT_API_PORT")


def test_ipv6_addresses_are_shown_as_browsers_take_them() -> None:
    try:
        listener = listen("::1", 0, setting="AGENT_API_PORT")
    except SocketError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert url("http", listener) == f"http://[::1]:{port_of(listener)}"


def test_every_address_is_shown_as_one_that_can_be_typed() -> None:
    with listen("0.0.0.0", 0, setting="AGENT_API_PORT") as listener:
        assert url("ws", listener) == f"ws://127.0.0.1:{port_of(listener)}"


@pytest.mark.parametrize(
    ("names", "port", "used"),
    [
        ("AGENT_API_PORT=127.0.0.1@{}", None, True),  # a supervisor's
        ("agent-rest.socket", 0, True),  # a systemd unit's
        ("AGENT_API_PORT=127.0.0.1@1", None, False),  # the setting was changed since
    ],
)
def test_a_socket_that_was_handed_over_is_used_if_it_is_meant(
    taken: socket.socket, names: str, port: int | None, used: bool
) -> None:
    port = port_of(taken) if port is None else port
    read, write = os.pipe()
    handed = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": names.format(port), "PYTHONPATH": str(ROOT)}

    def hand_over() -> None:
        os.dup2(taken.fileno(), 3)

    child = subprocess.run(
        [sys.executable, "-c", LISTEN, str(port)],
        env=os.environ | handed,
        preexec_fn=hand_over,
        pass_fds=[3],
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(read)
    os.close(write)
    if used:
        assert child.stdout.split() == ["3", str(port_of(taken)), "False"]
    else:
        assert "is taken" in child.stderr


@pytest.mark.parametrize("abstract", [True, False])
def test_news_reach_the_supervisor_with_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: socket.socket, abstract: bool
) -> None:
    address = f"\0test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        notify(taken.fileno(), FDSTORE="1", FDNAME="x")
        message, descriptors, _, _ = socket.recv_fds(inbox, 1000, 1)
        assert message == b"FDSTORE=1\nFDNAME=x"
        with socket.socket(fileno=descriptors[0]) as copy:
            assert copy.getsockname() == taken.getsockname()
        notify(READY="1")
        assert inbox.recv(1000) == b"READY=1"


def test_news_without_a_supervisor_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY="1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    notify(READY="1")
