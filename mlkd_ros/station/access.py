# SPDX-License-Identifier: Apache-2.0
"""Who may use the web ground station.

On the loopback interface everybody who is logged in on this machine may. Elsewhere a token is
needed. In either case a page from another site must not be able to steer the tracker through the
browser of somebody who may: the Host header must name this server (a rebound DNS name does not),
and a request that changes something must come from our own page.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["TOKEN_VARIABLE", "Access", "choose_token", "is_loopback"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
TOKEN_VARIABLE = "MLKD_STATION_TOKEN"
_SHORTEST_TOKEN, _LONGEST_TOKEN = 16, 256
_TOKEN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a server bound to this IP address."""
    return ipaddress.ip_address(address).is_loopback


def choose_token(file: Path | None) -> tuple[str, str]:
    """A token, and where it is from: the file, the environment, or newly made.

    Raises ValueError (OSError for a file that cannot be read).
    """
    if file is not None:
        if file.stat().st_mode & 0o077:
            raise ValueError(f"--token-file {file} can be read by other users: chmod 600 {file}")
        return _checked(file.read_text(encoding="utf-8").strip(), f"--token-file {file}"), str(file)
    if TOKEN_VARIABLE in os.environ:
        return _checked(os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE), TOKEN_VARIABLE
    return secrets.token_urlsafe(24), "generated"


def _checked(token: str, source: str) -> str:
    if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        raise ValueError(
            f"{source}: a token has {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} characters, "
            f"not {len(token)}"
        )
    if not _TOKEN_CHARACTERS.issuperset(token):
        raise ValueError(f"{source}: a token consists of letters, digits and - . _ ~")
    return token


@dataclass(frozen=True)
class Access:
    """The rules. `token` empty: none is needed. `hosts`: names that Host may have, besides IPs.

    `named`: those of them that somebody gave, for a proxy that pages come through.
    """

    token: str
    loopback_only: bool
    hosts: frozenset[str]
    named: frozenset[str] = frozenset()

    @classmethod
    def rules(cls, bind: str, token: str, names: tuple[str, ...] = ()) -> Access:
        """The rules of a server bound to an address; `names` are more names it is known by."""
        hosts = {"localhost", *(name.lower() for name in names)}
        loopback = is_loopback(bind)
        if not loopback:
            own = socket.gethostname().lower()
            hosts |= {own, f"{own.split('.')[0]}.local"}
        return cls(token, loopback, frozenset(hosts), frozenset(name.lower() for name in names))

    def known_host(self, host: str) -> bool:
        """Whether a Host header (`name`, `name:port`) names this server.

        A page whose DNS name was rebound to our address has its own name there. An IP address
        cannot be rebound.
        """
        name = _host_name(host)
        if name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback_only

    def own_page(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that changes something comes from a page of this very server.

        A proxy may leave the port out of Host, put its scheme's into it, or write our own address
        there; then the page's name has to be one that was given to us.
        """
        if headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            return False
        try:
            origin, host = urlsplit(headers.get("Origin", "")), urlsplit(f"//{headers['Host']}")
            usual = _DEFAULT_PORTS[origin.scheme]  # a page has one of these schemes
            ports = origin.port or usual, host.port
        except (KeyError, ValueError):  # no such header, no such scheme, no port
            return False
        if not origin.hostname:
            return False
        same = origin.hostname == host.hostname and ports[1] in (ports[0], None)
        return same or origin.hostname in self.named

    def may_enter(self, given: str) -> bool:
        """Whether a token is ours, compared in constant time."""
        return not self.token or hmac.compare_digest(
            given.encode("utf-8", "replace"), self.token.encode()
        )


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
