"""Which addresses requests to other servers may reach: public ones, and those of hosts that are trusted.

The address that is checked is the address that is connected to: a literal address is checked and rewritten in its plain
form (`plain`), a name by the resolver whose answer is connected to (`Guard`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from backend.blocks.block import BlockError

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE = IPv6Network("::/96")

Address = IPv4Address | IPv6Address


class Guard(AbstractResolver):
    """Resolves names, and refuses those that lead to addresses that may not be reached."""

    def __init__(self, trusted: tuple[str, ...], resolver: AbstractResolver) -> None:
        self._trusted = trusted
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            check(host, port, ip_address(each["host"]), self._trusted)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def plain(url: URL, trusted: tuple[str, ...]) -> URL:
    """Check a literal address, in whatever notation, and write it plainly; a name is left to the resolver."""
    host = (url.raw_host or "").rstrip(".")
    address = _literal(host)
    if address is None:
        if host.replace(".", "").isdigit():
            raise BlockError(f"{host[:60]} is not an address.")
        return url
    check(host, url.port or 0, address, trusted)
    return url.with_host(str(address))


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # also 127.1, 0x7f.1 and 2130706433
    except OSError:
        return None


def check(host: str, port: int, address: Address, trusted: tuple[str, ...]) -> None:
    names = {host, str(address)}
    if any(name in trusted or f"{name}:{port}" in trusted or f"[{name}]:{port}" in trusted for name in names):
        return
    if not all(map(_is_public, _meanings(address))):
        raise BlockError(
            f"{host} is a private address ({address}), which may not be reached from here: "
            "name it in TRUSTED_HOSTS if they may."
        )


def _is_public(address: Address) -> bool:
    special = address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified
    return address.is_global and not special and not (address.version == 6 and address.is_site_local)


def _meanings(address: Address) -> Iterator[Address]:
    """Yield the address and every IPv4 address inside it that a gateway on the way could send it to."""
    if isinstance(address, IPv6Address):
        low = IPv4Address(int(address) & 0xFFFFFFFF)
        if address.ipv4_mapped:
            yield address.ipv4_mapped
            return
        if address.sixtofour:
            yield address.sixtofour
        if address.teredo:
            yield from address.teredo
        if address in _IPV4_COMPATIBLE or any(address in network for network in _NAT64):
            yield low
            return
    yield address
