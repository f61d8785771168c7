"""Which URLs a finished job may be reported to: allowed prefixes, and no private addresses.

A URL is a caller's word, so it could point the worker at anything the pod can reach. It must
begin with an allowed prefix; the addresses its host resolves to are checked at the moment of
connecting, by the resolver that connects, so a name cannot change its mind in between.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from yarl import URL

from kit.http.problem import Problem
from proxy.config.policies import CallbackPolicy


class PrivateAddressError(OSError):
    """The host resolves to an address that callers must not reach through us."""


def is_public(address: str) -> bool:
    """Whether an address is on the public Internet; IPv4 inside IPv6 is looked at as IPv4.

    Of IPv6 only 2000::/3 is: what is not handed out for that (site-local, NAT64 of one's own,
    whatever comes) is refused without a list of it.
    """
    try:
        found = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if found in _NAT64 or int(found) >> 32 & 0xFFFFFFFF in _ISATAP:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public_ipv4(inner)
        if found not in _GLOBAL or any(found in network for network in _SPECIAL):
            return False
        return found.is_global
    return _is_public_ipv4(found)


def _is_public_ipv4(address: ipaddress.IPv4Address) -> bool:
    special = address.is_multicast or address.is_reserved
    return address.is_global and not special and not any(address in each for each in _SPECIAL_IPV4)


_GLOBAL = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})  # the third quarter of an address with IPv4 in it
_SPECIAL = (
    ipaddress.ip_network("2001:db8::/32"),
    ipaddress.ip_network("3fff::/20"),  # documentation, RFC 9637; newer than Python's own list
)
_SPECIAL_IPV4 = (
    ipaddress.ip_network("192.0.0.0/24"),  # IETF's protocols, of which Python knows only some
    ipaddress.ip_network("192.88.99.0/24"),  # 6to4's relays, withdrawn by RFC 7526
)


def check(url: str, policy: CallbackPolicy) -> str:
    """A callback URL that may be kept; Problem 422 says why not. Names are not resolved here."""

    def refuse(why: str) -> Problem:
        return Problem(422, "callback-refused", f"the callback URL {why}")

    if len(url) > 2048 or any(sign <= " " or sign == "\\" or sign > "~" for sign in url):
        raise refuse("must be at most 2048 visible ASCII characters without backslashes")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise refuse("is not a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise refuse("must begin with https:// or http:// and name a host")
    if not _read_alike(url, parts):
        raise refuse("can be read in two ways; write it plainly")
    if parts.username is not None or parts.password is not None:
        raise refuse("must not carry a user name or password")
    if not any(_below(parts, prefix) for prefix in policy.allow):
        raise refuse("is not on the allow-list (PROXY_CALLBACKS `allow`)")
    if not policy.allow_private and _looks_like_address(host) and not is_public(host):
        raise refuse("names a private address")
    return url


def _below(given: SplitResult, prefix: str) -> bool:
    """Whether a URL lies below an allowed prefix: same scheme, host and port, path inside."""
    allowed = urlsplit(prefix)
    path = given.path or "/"
    inside = allowed.path.rstrip("/")
    return (
        given.scheme == allowed.scheme
        and given.hostname == allowed.hostname
        and _port(given) == _port(allowed)
        and not any(each.split(";", 1)[0] in (".", "..") for each in path.split("/"))
        and "//" not in path
        and "%" not in path
        and (path == inside or path.startswith(inside + "/") or not inside)
    )


def _read_alike(url: str, parts: SplitResult) -> bool:
    """Whether the client that asks reads the URL as the check does."""
    try:
        used = URL(url)
    except ValueError:
        return False
    return (
        used.scheme == parts.scheme
        and (used.raw_host or "") == (parts.hostname or "")
        and used.explicit_port == parts.port
        and used.raw_path == (parts.path or "/")
    )


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _looks_like_address(host: str) -> bool:
    """Also the forms that only inet_aton takes: 127.1, 0x7f000001, 2130706433."""
    try:
        ipaddress.ip_address(host.split("%", 1)[0])
    except ValueError:
        return host.rsplit(".", 1)[-1][:1].isdigit()
    return True
