"""One request to a server, bounded in time and in bytes.

http.client bounds each wait for the network, and not the whole: a server that sends a byte a second
could hold it for hours. Here each wait is for no longer than what is left of the whole.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.registry.access import host_of, is_loopback, trust
from slurm_cmeta.registry.errors import BROKEN, DOWN, SLOW, UNTRUSTED, RegistryError
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_cmeta.registry.access import Access

PIECE = 64 * 1024
MAX_AROUND = 2 * PIECE
"""Bytes of an answer's head, or around the chunks of its body."""
CONNECT = 10.0
"""Seconds for one attempt to connect, where there are several addresses."""


class RequestError(RegistryError):
    """A request that got no answer; the message has no name of what was asked for yet."""


class Server(NamedTuple):
    """Whom to connect to."""

    scheme: str
    """`https` or `http`."""
    address: str
    """`host` or `host:port`."""

    @property
    def host(self) -> str:
        """Return the host as the resolver takes it."""
        return host_of(self.address).strip("[]")

    @property
    def port(self) -> int:
        """Return the port, that of the scheme by default."""
        text = self.address[len(host_of(self.address)) + 1 :]
        return int(text) if text else (443 if self.scheme == "https" else 80)


class Timed:
    """A socket whose every wait ends when the whole time is out."""

    def __init__(self, sock: socket.socket, access: Access) -> None:
        self.sock = sock
        self.access = access
        self.room = 0
        """Bytes that may still come: http.client takes a chunk of -1 bytes for all that comes."""

    def arm(self) -> None:
        """Let the next wait take no longer than what is left."""
        left = self.access.left
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        self.arm()
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return a reader of what comes; http.client asks for no other mode than `rb`."""
        return io.BufferedReader(_Incoming(self), PIECE)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


class _Incoming(io.RawIOBase):
    def __init__(self, timed: Timed) -> None:
        self._timed = timed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._timed.arm()
        if self._timed.room <= 0:
            raise RequestError("it sends more than can be of use", BROKEN)
        got = self._timed.sock.recv_into(buffer)
        self._timed.room -= got
        return got


class Connection:
    """A connection to one server, used for one request after another."""

    def __init__(self, server: Server, access: Access, *, may_be_local: bool = True) -> None:
        """Connect. Raises RequestError. A server that is not this machine by its name must not turn
        out to be, unless `may_be_local`: a redirection could reach what listens here alone.
        """
        self.server = server
        proxy = _proxy(server)
        try:
            sock = _connected(proxy or server, access, may_be_local or proxy is not None)
            if proxy is not None and server.scheme == "https":
                _tunnel(sock, server, access)
            if server.scheme == "https":
                sock.settimeout(max(access.left, 0.001))
                sock = trust(server.address).wrap_socket(sock, server_hostname=server.host)
        except OSError as problem:
            raise failure(problem) from None
        self._prefix = f"http://{server.address}" if proxy and server.scheme == "http" else ""
        self._timed = Timed(sock, access)
        self._client = http.client.HTTPConnection(server.host, server.port)
        self._client.sock = self._timed
        self._client.auto_open = 0

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        access: Access,
        form: bytes | None = None,
    ) -> http.client.HTTPResponse:
        """Return the answer, of which only the head was read. Raises RequestError."""
        self._timed.access = access
        try:
            self._client.putrequest(
                method, self._prefix + path, skip_host=True, skip_accept_encoding=True
            )
            self._client.putheader("Host", self.server.address)
            self._client.putheader("Accept-Encoding", "identity")
            self._client.putheader("User-Agent", "slurm-cmeta")
            for name, value in headers.items():
                self._client.putheader(name, value)
            if form is not None:
                self._client.putheader("Content-Length", str(len(form)))
            self._client.endheaders(form)
            self.expect(0)
            return self._client.getresponse()
        except (OSError, http.client.HTTPException, ValueError) as problem:
            self.close()
            raise failure(problem) from None

    def expect(self, size: int) -> None:
        """Let `size` bytes come, and what heads and chunks have around them."""
        self._timed.room = size + MAX_AROUND

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        self._timed.close()


def body(answer: http.client.HTTPResponse, limit: int, connection: Connection) -> bytes:
    """Return the answer's body; raise RequestError where it is too long, or breaks off."""
    connection.expect(limit)
    stated = answer.headers.get("Content-Length", "")
    if stated.isdecimal() and int(stated[:18]) > limit:
        raise RequestError(f"has {stated[:18]} bytes, more than {limit}", BROKEN)
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RequestError("came packed, which was not asked for", BROKEN)
    pieces, size = [], 0
    try:
        while piece := answer.read(min(PIECE, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise RequestError(f"has more than {limit} bytes", BROKEN)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise failure(problem) from None
    if stated.isdecimal() and size < int(stated):
        raise RequestError(f"broke off after {size} of {stated} bytes", DOWN)
    return b"".join(pieces)


def _connected(server: Server, access: Access, may_be_local: bool) -> socket.socket:
    problem: OSError = OSError("no address")
    for family, kind, protocol, _, address in _addresses(server, access):
        if not may_be_local and not is_loopback(server.address) and _is_local(str(address[0])):
            raise RequestError(
                f"{clean(server.address, 80)} is this machine: not followed", UNTRUSTED
            )
        left = access.left
        if left <= 0:
            raise TimeoutError
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(min(left, CONNECT))
            sock.connect(address)
        except OSError as one:
            problem = one
            sock.close()
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise problem


def _addresses(server: Server, access: Access) -> list[Any]:
    """Return the addresses of a host. The resolver knows no deadline, so a thread waits for it."""
    found: list[Any] = []

    def resolve() -> None:
        try:
            found.append(socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as problem:
            found.append(problem)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(max(access.left, 0))
    if not found:
        raise TimeoutError
    if isinstance(found[0], Exception):
        host = clean(server.host, 80)
        raise RequestError(f"the host {host} is not known: check the name and the network", DOWN)
    addresses: list[Any] = found[0]
    return addresses


def _is_local(address: str) -> bool:
    import ipaddress

    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None) or found
    return bool(mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified)


def _proxy(server: Server) -> Server | None:
    """Return the proxy that the environment names for a server (`https_proxy`, `no_proxy`)."""
    import os

    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.parse import urlsplit
    from urllib.request import getproxies_environment, proxy_bypass

    named = getproxies_environment()
    url = named.get(server.scheme) or named.get("all")
    if not url or is_loopback(server.address) or proxy_bypass(server.address):
        return None
    split = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = split.port or 3128
    except ValueError:
        raise RequestError("the proxy in the environment is no URL", BROKEN) from None
    if split.scheme != "http" or not split.hostname or split.username:
        raise RequestError(
            "only a proxy of the form http://HOST:PORT is used, without a password", BROKEN
        )
    return Server("http", f"{split.hostname}:{port}")


def _tunnel(sock: socket.socket, server: Server, access: Access) -> None:
    timed = Timed(sock, access)
    target = f"{server.host}:{server.port}"
    timed.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        timed.arm()
        piece = sock.recv(1)  # not a byte more: what follows is TLS's
        head += piece
        if not piece or len(head) > 16384:
            raise RequestError("the proxy gave no answer that can be understood", DOWN)
    words = head.split(maxsplit=2)
    if len(words) < 2 or words[1] != b"200":
        status = clean(words[1].decode("latin-1"), 20) if len(words) > 1 else "?"
        raise RequestError(f"the proxy does not connect to it (status {status})", DOWN)


def failure(problem: Exception) -> RequestError:
    """Return what a problem of the network is to the user. Nothing of the request is in it."""
    import ssl

    if isinstance(problem, RequestError):
        return problem
    if isinstance(problem, ssl.SSLCertVerificationError):
        why = clean(problem.verify_message, 200)
        return RequestError(
            f"its certificate is not trusted ({why}): put the CA's certificate into "
            f"/etc/containers/certs.d/HOST:PORT/ca.crt, or name it in SSL_CERT_FILE",
            UNTRUSTED,
        )
    if isinstance(problem, TimeoutError):
        return RequestError("it did not answer in time", SLOW)
    if isinstance(problem, ssl.SSLError):
        return RequestError(f"no TLS with it ({clean(problem.reason or 'broken', 100)})", UNTRUSTED)
    if isinstance(problem, OSError):
        return RequestError(
            f"it cannot be reached ({clean(problem.strerror or 'closed', 100)})", DOWN
        )
    if isinstance(problem, http.client.RemoteDisconnected | http.client.IncompleteRead):
        return RequestError("it broke the connection", DOWN)
    return RequestError("its answer is no HTTP", BROKEN)
