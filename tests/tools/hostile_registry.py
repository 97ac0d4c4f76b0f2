"""A server that does all that a registry should not."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

Request = http.server.BaseHTTPRequestHandler


def reply(
    request: Request, status: int, data: bytes = b"", headers: dict[str, str] | None = None
) -> None:
    """Send a whole answer."""
    request.send_response(status)
    stated = headers or {}
    for name, value in stated.items():
        request.send_header(name, value)
    if "Content-Length" not in stated and "Transfer-Encoding" not in stated:
        request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def drip(request: Request) -> None:
    """Send a byte now and then, for ever: of the head first."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        request.wfile.write(b"x")
        request.wfile.flush()
        time.sleep(0.1)


def drip_body(request: Request) -> None:
    """The same of the body."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        request.wfile.write(b" ")
        request.wfile.flush()
        time.sleep(0.1)


def hang(request: Request) -> None:
    """Take the request, and say nothing."""
    time.sleep(30)


def die(request: Request) -> None:
    """Break off in the middle of the body."""
    request.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"manifests"')
    request.close_connection = True


def endless(request: Request) -> None:
    """Send a body without a stated end."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    while True:
        request.wfile.write(piece)


def huge(request: Request) -> None:
    """State 100 MB of JSON, and send it."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(1000):
        request.wfile.write(b"[" * 100_000)


def bomb(request: Request) -> None:
    """Send what was not asked for: a packed body."""
    reply(request, 200, gzip.compress(b" " * 10_000_000), {"Content-Encoding": "gzip"})


def long_header(request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n")


def many_headers(request: Request) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000 + b"\r\n")


def odd_chunks(request: Request) -> None:
    request.wfile.write(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
    )
    request.close_connection = True


def negative_chunk(request: Request) -> None:
    """State a chunk of less than nothing, and send 100 MB."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
    for _ in range(1000):
        request.wfile.write(b"[" * 100_000)


def no_http(request: Request) -> None:
    request.wfile.write(b"\x16\x03\x01 hello\r\n")
    request.close_connection = True


def redirected(to: str) -> Callable[[Request], None]:
    """Return what sends clients elsewhere."""

    def send(request: Request) -> None:
        reply(request, 307, b"", {"Location": to.replace("HERE", request.headers["Host"])})

    return send


def status(number: int, **headers: str) -> Callable[[Request], None]:
    """Return what answers with that status."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: reply(request, number, b"{}", given)


def document(data: object, **headers: str) -> Callable[[Request], None]:
    """Return what gives that JSON for any manifest."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return lambda request: reply(request, 200, text, {"Content-Type": INDEX, **given})


def of_itself(request: Request) -> None:
    """An index that names an index by a digest which it has not."""
    name = request.path.rpartition("/")[2]
    entry = {"mediaType": INDEX, "digest": name if ":" in name else "sha256:" + "a" * 64}
    reply(request, 200, json.dumps({"manifests": [entry]}).encode(), {"Content-Type": INDEX})


MANY = {
    "manifests": [
        {
            "mediaType": MANIFEST,
            "digest": f"sha256:{hashlib.sha256(bytes([n % 256, n >> 8])).hexdigest()}",
        }
        for n in range(10_000)
    ]
}


class Hostile:
    """The server, on a port of its own; `act` is what it does with a request."""

    def __init__(self, act: Callable[[Request], None]) -> None:
        outer = self
        self.requests: list[tuple[str, dict[str, str]]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.requests.append((self.path, dict(self.headers)))
                try:
                    act(self)
                except OSError:
                    self.close_connection = True

            do_POST = do_GET  # noqa: N815

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hostile:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def deaf() -> socket.socket:
    """Return a socket that accepts no connection, and whose queue is full."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    return listening
