"""A real registry on this machine: Debian's docker-registry, plain, with TLS, or with accounts."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import hashlib
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from trouble import ToolError

USER, PASSWORD = "alice", "canary-of-a-secret"


INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CREATED = "org.opencontainers.image.created"


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    """Return the descriptor of a blob."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


class Running(NamedTuple):
    """A registry that answers."""

    address: str
    """`127.0.0.1:PORT`."""
    log: Path
    """What it was asked, a line each."""
    ca: Path | None
    """The certificate of the authority that its own was signed by."""

    def push(self, layout: Path, name: str) -> None:
        """Push a layout's whole image, all platforms of it, by skopeo."""
        tls = f"--dest-tls-verify={'true' if self.ca else 'false'}"
        words = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests", tls]
        if self.ca:
            words += [f"--dest-cert-dir={self.ca.parent}"]
        words += [f"--dest-creds={USER}:{PASSWORD}"]
        run([*words, f"oci:{layout}", f"docker://{self.address}/{name}"])

    def put(self, name: str, blobs: Mapping[str, bytes], tag: str, manifest: bytes) -> None:
        """Push what skopeo copies not: blobs by digest, and a manifest that names them, by tag or
        digest. Without TLS and accounts only.
        """
        for digest, data in blobs.items():
            where = self._send("POST", f"/v2/{name}/blobs/uploads/", b"").getheader("Location", "")
            split = urlsplit(where)
            path = f"{split.path}?{split.query}&digest={digest}"
            self._send("PUT", path, data, "application/octet-stream")
        kind = json.loads(manifest)["mediaType"]
        self._send("PUT", f"/v2/{name}/manifests/{tag}", manifest, kind)

    def attach(
        self, name: str, subject: Mapping[str, Any], notes: Sequence[tuple[str, bytes, str]]
    ) -> None:
        """Attach documents, each of a kind and made at a time, to a manifest, as oras does.

        `subject` is its descriptor. The registry has no list of referrers: a tag stands in for it.
        """
        empty, listed = b"{}", []
        for kind, data, created in notes:
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": kind,
                "config": descriptor(empty, "application/vnd.oci.empty.v1+json"),
                "layers": [descriptor(data, "application/octet-stream")],
                "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
                "annotations": {CREATED: created} if created else {},
            }
            text = json.dumps(manifest).encode()
            own = descriptor(text, MANIFEST)
            blobs = {descriptor(blob, "")["digest"]: blob for blob in (empty, data)}
            self.put(name, blobs, own["digest"], text)
            annotations = manifest["annotations"]
            listed.append({**own, "artifactType": kind, "annotations": annotations})
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}
        self.put(name, {}, subject["digest"].replace(":", "-"), json.dumps(index).encode())

    def _send(
        self, method: str, path: str, data: bytes, kind: str = ""
    ) -> http.client.HTTPResponse:
        client = http.client.HTTPConnection(self.address, timeout=20)
        client.request(method, path, data, {"Content-Type": kind} if kind else {})
        answer = client.getresponse()
        if answer.status not in (201, 202):
            raise ToolError(f"{method} {path}: {answer.status} {answer.read()[:300]!r}")
        return answer

    def asked(self) -> list[str]:
        """Return the requests that it had, as `GET /v2/...`."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.split('"')[1] for line in lines if " /v2/" in line and '"' in line]


def run(words: list[str]) -> str:
    """Run a tool; raises ToolError with what it said."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise ToolError(f"{words[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def bcrypt(password: str) -> str:
    """Return the bcrypt hash of a password, by crypt(3): the registry takes no other."""
    library = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    salt = b"$2b$05$" + b"abcdefghijklmnopqrstuu"
    return str(library.crypt(password.encode(), salt).decode())


def certificate(place: Path) -> tuple[Path, Path, Path]:
    """Make an authority, and a certificate of it for 127.0.0.1; return CA, certificate and key."""
    (place / "trusted").mkdir(parents=True)
    ca, key, signed = place / "trusted/ca.crt", place / "server.key", place / "server.pem"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    run([*openssl, "-keyout", f"{place}/authority.key", "-out", str(ca), "-subj", "/CN=cmeta-test"])
    request = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    run([*request, "-keyout", str(key), "-out", f"{place}/server.req"])
    (place / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    sign = ["openssl", "x509", "-req", "-in", f"{place}/server.req", "-CA", str(ca), "-days", "2"]
    sign += ["-CAkey", f"{place}/authority.key", "-CAcreateserial", "-extfile", f"{place}/san"]
    run([*sign, "-out", str(signed)])
    return ca, signed, key


@contextmanager
def registry(place: Path, *, tls: bool = False, accounts: bool = False) -> Iterator[Running]:
    """Run one until the context is left. `accounts`: it wants USER with PASSWORD."""
    program = shutil.which("docker-registry")
    if program is None:
        raise ToolError("docker-registry is not installed (Debian: docker-registry)")
    place.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
        "http": {"addr": address},
    }
    ca = None
    if tls:
        ca, signed, key = certificate(place / "tls")
        config["http"]["tls"] = {"certificate": str(signed), "key": str(key)}
    if accounts:
        (place / "htpasswd").write_text(f"{USER}:{bcrypt(PASSWORD)}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(place / "htpasswd")}}
    (place / "config.yml").write_text(json.dumps(config))
    log = place / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [program, "serve", str(place / "config.yml")],
            stdout=output,
            stderr=output,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
    try:
        until = time.monotonic() + 20
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > until:
                raise ToolError(f"docker-registry does not start: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield Running(address, log, ca)
    finally:
        server.terminate()
        server.wait(10)


def _answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), 1):
            return True
    except OSError:
        return False


class Gate:
    """A registry's front door that wants Bearer tokens, with the token server behind the same port.

    docker-registry checks tokens by certificates; this one passes on what has the right one.
    """

    TOKEN = "the-right-token"  # noqa: S105

    def __init__(self, behind: str) -> None:
        gate = self
        self.seen: list[tuple[str, str]] = []
        """Path and Authorization header of each request."""
        self.refresh = ""
        """The identity token that is taken in place of name and password."""

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                gate._get(self, behind)

            def do_POST(self) -> None:
                gate._post(self)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Gate:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _get(self, request: http.server.BaseHTTPRequestHandler, behind: str) -> None:
        said = request.headers.get("Authorization", "")
        self.seen.append((request.path, said))
        if request.path.startswith("/token?"):
            pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            query = parse_qs(urlsplit(request.path).query)
            good = said == f"Basic {pair}" and query["scope"][0].endswith(":pull")
            _reply(request, 200 if good else 401, {"token": self.TOKEN} if good else {})
        elif said != f"Bearer {self.TOKEN}":
            realm = f'Bearer realm="http://{self.address}/token",service="test",scope="x"'
            _reply(request, 401, {}, {"WWW-Authenticate": realm})
        else:
            client = http.client.HTTPConnection(behind)
            accept = {"Accept": request.headers.get("Accept", "*/*")}
            client.request("GET", request.path, headers=accept)
            answer = client.getresponse()
            data = answer.read()
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(data)
            client.close()

    def _post(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        self.seen.append((request.path, request.headers.get("Authorization", "")))
        good = parse_qs(body).get("refresh_token") == [self.refresh]
        _reply(request, 200 if good else 401, {"access_token": self.TOKEN} if good else {})


def _reply(
    request: http.server.BaseHTTPRequestHandler,
    status: int,
    document: dict[str, Any],
    headers: dict[str, str] | None = None,
) -> None:
    data = json.dumps(document).encode()
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
