"""Who may ask: a page of another site must not reach a server on this machine by way of the browser."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Optional, Union
from urllib.parse import urlsplit

LOCALHOST = "localhost"


def address(name: str) -> Optional[Union[ipaddress.IPv4Address, ipaddress.IPv6Address]]:
    """A host's numbers; None for a name."""
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    found = address(host)
    return host == LOCALHOST or (found is not None and found.is_loopback)


@dataclass(frozen=True)
class Guard:
    """The hosts in whose name requests are answered.

    A site whose own name is made to mean this machine (DNS rebinding) asks in that name, so that numbers are safe and
    names must be known.

    Args:
        host: what the server listens on.
        names: by which it may be called beside `localhost` and its numbers.
    """

    host: str
    names: tuple[str, ...] = ()

    def accepts(self, host: str, origin: Optional[str], site: Optional[str]) -> bool:
        """Whether to answer a request with these headers: Host, Origin, Sec-Fetch-Site."""
        return self.knows(host) and site != "cross-site" and (origin is None or urlsplit(origin).netloc == host)

    def knows(self, host: str) -> bool:
        """Whether a Host header is one of this server's."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names or is_loopback(name):
            return True
        return address(name) is not None and not is_loopback(self.host)
