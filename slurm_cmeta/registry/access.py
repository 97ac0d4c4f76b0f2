"""How registries may be reached: until when, and by which protocol."""

from __future__ import annotations

import os
import time

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

_LOOPBACK = ("localhost", "[::1]")

CERTIFICATES = ("/etc/containers/certs.d", "/etc/docker/certs.d")
"""Where a site keeps the certificates of its own registries, a directory for each host
(containers-certs.d(5))."""


class Access(NamedTuple):
    """What all requests of one command share."""

    until: float
    """time.monotonic() at which all of it ends."""
    plain_http: frozenset[str] = frozenset()
    """Hosts, or hosts with ports, that are spoken to without TLS."""

    @classmethod
    def within(cls, seconds: float, plain_http: Iterable[str] = ()) -> Access:
        """Return the access for requests that together may take `seconds`."""
        return cls(time.monotonic() + seconds, frozenset(plain_http))

    @property
    def left(self) -> float:
        """Return the seconds that are left, negative when the time is out."""
        return self.until - time.monotonic()

    def is_plain(self, server: str) -> bool:
        """Tell whether `server` is to be spoken to without TLS: it was listed."""
        return server in self.plain_http or host_of(server) in self.plain_http


def host_of(server: str) -> str:
    """Return the host of `host:port`, an IPv6 address in its brackets."""
    host, colon, port = server.rpartition(":")
    return host if colon and port.isdecimal() else server


def is_loopback(server: str) -> bool:
    """Tell whether a server is this machine, by its name alone."""
    host = host_of(server)
    parts = host.split(".")
    numeric = len(parts) == 4 and all(part.isdecimal() for part in parts)
    return host in _LOOPBACK or (numeric and parts[0] == "127")


def authorities(server: str) -> list[str]:
    """Return the files in which a site keeps the certificates that it trusts for a server."""
    return [path for path in _certificates(server) if path.endswith(".crt")]


def _certificates(server: str) -> list[str]:
    found = []
    for directory in CERTIFICATES:
        place = f"{directory}/{server}"
        try:
            found += [f"{place}/{name}" for name in sorted(os.listdir(place))]
        except OSError:
            continue
    return found


def trust(server: str) -> ssl.SSLContext:
    """Return what TLS trusts: the system's store and $SSL_CERT_FILE, and the site's certificates
    for that server. Client certificates are taken from there, too (NAME.cert with NAME.key).
    """
    import ssl

    context = ssl.create_default_context()
    # Python 3.13 refuses CAs without the extension keyUsage, which sites have, and which skopeo and
    # Apptainer take.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    files = _certificates(server)
    for path in files:
        key = f"{path.removesuffix('.cert')}.key"
        try:
            if path.endswith(".crt"):
                context.load_verify_locations(path)
            elif path.endswith(".cert") and key in files:
                context.load_cert_chain(path, key)
        except (OSError, ssl.SSLError):
            continue  # one that cannot be read does not help, and spoils nothing
    return context
