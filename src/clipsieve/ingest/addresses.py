"""Which addresses are fetched from, and connections to the very address that was looked at.

A name is resolved once for a connection, every answer is checked, and the socket is connected to
one of them by number: an answer that changes afterwards changes nothing.
"""

import ipaddress
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

from clipsieve.ingest.outcomes import FetchError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: From a name and a port to the texts of its addresses; raises OSError.
Resolver = Callable[[str, int], Sequence[str]]

#: Of the IANA special-purpose registries what is not globally reachable, whatever the version of
#: Python knows; multicast and class E.
_NOT_PUBLIC_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),  # the last: Azure's agent
        ),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

#: Seconds for which answers, and refusals, of a resolver are used again.
KEPT_SECONDS, KEPT_FAILURE_SECONDS = 60.0, 10.0
_KEPT_NAMES = 20_000
#: Lookups at once; the C library's cannot be interrupted.
_LOOKUPS = 32
#: Addresses of a name that are tried.
_TRIED = 4


def is_public(address: Address) -> bool:
    """Return whether an address is reachable from anywhere, and nothing but that.

    IPv4 addresses inside IPv6 ones are taken out: mapped, 6to4, NAT64.  Teredo's are refused.

    >>> is_public(ipaddress.ip_address("::ffff:127.0.0.1"))
    False
    >>> is_public(ipaddress.ip_address("64:ff9b::8.8.8.8"))
    True
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = inner_address(address)
        if inner is not None:
            return is_public(inner)
        if address not in _PUBLIC_V6 or any(address in network for network in _NOT_PUBLIC_V6):
            return False
        return address.is_global
    if any(address in network for network in _NOT_PUBLIC_V4):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def inner_address(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address to which packets for an IPv6 address go, if there is one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def system_resolver(host: str, port: int) -> Sequence[str]:
    """Return the addresses that the system knows of a name, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass
class Addresses:
    """Resolves, checks and connects.

    Attributes:
      allow_private: whether every address is allowed.
      allowed: networks that count as public.
      resolver: of names.
    """

    allow_private: bool = False
    allowed: Sequence[Network] = ()
    resolver: Resolver = system_resolver
    _kept: "OrderedDict[tuple[str, int], tuple[float, Sequence[str] | FetchError]]" = field(
        default_factory=OrderedDict
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor | None = None

    def is_allowed(self, address: Address) -> bool:
        """Return whether an address may be connected to."""
        if self.allow_private:
            return True
        inner = inner_address(address) if isinstance(address, ipaddress.IPv6Address) else None
        named = [address] if inner is None else [address, inner]
        if any(one in network for one in named for network in self.allowed):
            return True
        return is_public(address)

    def checked(self, host: str, port: int, deadline: float) -> list[Address]:
        """Return the addresses of a host, all of which are allowed.

        Args:
          host: name or literal address.
          port: of the connection.
          deadline: by `time.monotonic`.

        Raises:
          FetchError: there is none, or one of them is not allowed.
        """
        try:
            addresses = [ipaddress.ip_address(text) for text in self._texts(host, port, deadline)]
        except ValueError as error:  # a zone, such as fe80::1%eth0
            raise FetchError(f"address of {host} is not usable: {error}") from None
        for address in addresses:
            if not self.is_allowed(address):
                named = "" if host == str(address) else f" of {host}"
                raise FetchError(f"address {address}{named} is not public")
        return addresses

    def connect(self, host: str, port: int, deadline: float) -> socket.socket:
        """Return a socket that is connected to a checked address of a host.

        Raises:
          FetchError: see `checked`; or none of the addresses can be connected to.
        """
        addresses = self.checked(host, port, deadline)[:_TRIED]
        reason = ""
        for number, address in enumerate(addresses):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            sock: socket.socket | None = None
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)  # fails where there is no IPv6
                sock.settimeout(left / (len(addresses) - number))
                sock.connect((str(address), port))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as error:
                if sock is not None:
                    sock.close()
                reason = f"cannot connect to {host}: {error_text(error)}"
        raise FetchError(reason or f"cannot connect to {host} in time", may_pass=True)

    def _texts(self, host: str, port: int, deadline: float) -> Sequence[str]:
        """Return the texts of a host's addresses, those of a moment ago too."""
        if _is_literal(host):
            return (host,)
        key = host, port
        with self._lock:
            until, kept = self._kept.get(key, (0.0, ()))
            if until <= time.monotonic():
                self._kept.pop(key, None)
                kept = ()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_LOOKUPS, "clipsieve-resolve")
        if not kept:
            kept, seconds = self._looked_up(host, port, deadline)
            with self._lock:
                self._kept[key] = time.monotonic() + seconds, kept
                while len(self._kept) > _KEPT_NAMES:
                    self._kept.popitem(last=False)
        if isinstance(kept, FetchError):
            raise FetchError(kept.reason, may_pass=kept.may_pass)
        return kept

    def _looked_up(
        self, host: str, port: int, deadline: float
    ) -> tuple[Sequence[str] | FetchError, float]:
        """Return a host's addresses or why it has none, and for how long that may be kept."""
        assert self._pool is not None
        try:
            future = self._pool.submit(self.resolver, host, port)
            texts = future.result(max(0.0, deadline - time.monotonic()))
        except FutureTimeout:
            raise FetchError(f"no address of {host} in time", may_pass=True) from None
        except (OSError, UnicodeError) as error:
            unknown = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
            reason = f"cannot resolve {host}: {error_text(error)}"
            return FetchError(reason, may_pass=not unknown), KEPT_FAILURE_SECONDS
        if not texts:
            return FetchError(f"cannot resolve {host}: no address"), KEPT_FAILURE_SECONDS
        return texts, KEPT_SECONDS


def error_text(error: BaseException) -> str:
    """Return what the system says of an error, without its number."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
