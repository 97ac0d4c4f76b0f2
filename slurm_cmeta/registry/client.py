"""One repository of a registry: its manifests and blobs, each verified by its digest.

Source: opencontainers/distribution-spec spec.md (pull, referrers); the headers' names are those of
RFC 9110. All requests of one Registry share one deadline. It may be used by several threads.
"""

from __future__ import annotations

import http.client
import time

from slurm_cmeta.image.metadata import MAX_JSON, DocumentError, load
from slurm_cmeta.image.oci import INDEXES, MANIFESTS, is_digest, verify
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.registry import credentials, token
from slurm_cmeta.registry.access import is_loopback
from slurm_cmeta.registry.errors import (
    BROKEN,
    DENIED,
    DOWN,
    LIMITED,
    MISSING,
    UNTRUSTED,
    RegistryError,
)
from slurm_cmeta.registry.http import PIECE, Connection, RequestError, Server, body, failure
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

MAX_REDIRECTS = 5
MAX_RETRIES = 3
"""How often a server that asks for patience, or breaks a kept connection, is asked again."""
MAX_PATIENCE = 10.0
"""Seconds that a server may ask for."""
MAX_REFERRERS = 64

_ACCEPT = ", ".join((*INDEXES, *MANIFESTS))
_REDIRECTIONS = (301, 302, 303, 307, 308)
_LOGIN = "log in with `apptainer registry login`, `skopeo login` or `podman login`"


class Document(NamedTuple):
    """A manifest or an index, as it was sent."""

    digest: str
    """`sha256:...` of the data, or the digest that was asked for."""
    media_type: str
    data: bytes


class Answer(NamedTuple):
    """An answer of which the body was not read yet."""

    response: http.client.HTTPResponse
    connection: Connection


class Registry:
    """One repository."""

    def __init__(self, reference: Reference, access: Access) -> None:
        self.reference = reference
        self.access = access
        self._server: Server | None = None
        self._idle: list[Connection] = []
        self._authorization = ""
        self._no_referrers = False
        self._credentials: credentials.Credentials | None = None

    # --- what it holds ---------------------------------------------------------------------------

    def manifest(self, name: str = "") -> Document:
        """Return the manifest or index `name`, a tag or a digest; by default what the reference
        names. Raises RegistryError.
        """
        name = name or self.reference.digest or self.reference.tag
        path = f"/v2/{self.reference.repository}/manifests/{name}"
        data, headers = self._read(path, MAX_JSON, "the manifest", _ACCEPT)
        if headers.get("Content-Type", "").lower().startswith("text/html"):
            raise self._error("the registry answers with a web page: check the name", BROKEN)
        stated = headers.get("Docker-Content-Digest", "")
        wanted = name if is_digest(name) else stated if is_digest(stated) else ""
        if wanted and not verify(data, wanted):
            raise self._error(f"the manifest {clean(name, 80)} is not what its digest says", BROKEN)
        return Document(wanted or _digest(data), headers.get("Content-Type", ""), data)

    def blob(self, digest: str, limit: int = MAX_JSON) -> bytes:
        """Return a whole blob of at most `limit` bytes. Raises RegistryError."""
        data, _ = self._read(self._blob_path(digest), limit, f"the blob {digest[:19]}", "*/*")
        if not verify(data, digest):
            raise self._error(f"the blob {digest[:19]} is not what its digest says", BROKEN)
        return data

    def open_blob(self, digest: str, offset: int = 0) -> Answer:
        """Return an answer that gives the blob from `offset` on, or from its beginning where its
        status is 200: not verified, the reader has to. Raises RegistryError.
        """
        ranged = {"Range": f"bytes={offset}-"} if offset else {}
        return self._open("GET", self._blob_path(digest), {"Accept": "*/*", **ranged}, "the blob")

    def referrers(self, digest: str, artifact_type: str = "") -> list[dict[str, Any]]:
        """Return the descriptors of what is attached to a manifest, at most MAX_REFERRERS.

        A registry without that part of the specification is asked for the tag that clients use in
        its place; one that has neither has nothing attached. Raises RegistryError.
        """
        base = f"/v2/{self.reference.repository}"
        tag = f"{base}/manifests/{digest.replace(':', '-')}"
        for path in (f"{base}/referrers/{digest}", tag)[self._no_referrers :]:
            try:
                data, _ = self._read(path, MAX_JSON, "the list of referrers", INDEXES[0])
                listed = load(data).get("manifests")
            except RegistryError as problem:
                if problem.kind not in (MISSING, BROKEN, DENIED):
                    raise
                self._no_referrers |= path != tag and problem.kind == MISSING
                continue
            except DocumentError:
                continue
            found = (
                [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
            )
            return [
                one
                for one in found[:MAX_REFERRERS]
                if not artifact_type or one.get("artifactType") == artifact_type
            ]
        return []

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()

    # --- requests --------------------------------------------------------------------------------

    def release(self, answer: Answer) -> None:
        """Give back the connection of an answer whose body was read whole."""
        if answer.response.will_close or not answer.response.isclosed():
            answer.connection.close()
        else:
            self._idle.append(answer.connection)

    def pieces(self, answer: Answer) -> Iterator[bytes]:
        """Yield the body of an answer as it comes. Raises RegistryError where it breaks off."""
        stated = answer.response.headers.get("Content-Length", "")
        size = 0
        try:
            while piece := self._piece(answer):
                size += len(piece)
                yield piece
        except (RequestError, OSError, http.client.HTTPException, ValueError) as problem:
            answer.connection.close()
            failed = failure(problem)
            raise self._error(f"the blob: {failed}", failed.kind) from None
        if stated.isdecimal() and size < int(stated):
            answer.connection.close()
            raise self._error(f"the blob broke off after {size} of {stated} bytes", DOWN)
        self.release(answer)

    def _piece(self, answer: Answer) -> bytes:
        answer.connection.expect(PIECE)
        return answer.response.read(PIECE)

    @property
    def plain(self) -> bool:
        """Whether it is spoken to without TLS."""
        return self._found_server().scheme == "http"

    def _blob_path(self, digest: str) -> str:
        if not is_digest(digest):
            raise self._error(f"{clean(digest, 80)} is no digest", BROKEN)
        return f"/v2/{self.reference.repository}/blobs/{digest}"

    def _read(self, path: str, limit: int, what: str, accept: str) -> tuple[bytes, Any]:
        answer = self._open("GET", path, {"Accept": accept}, what)
        try:
            data = body(answer.response, limit, answer.connection)
        except RequestError as problem:
            answer.connection.close()
            raise self._error(f"{what} {problem}", problem.kind) from None
        headers = answer.response.headers
        self.release(answer)
        return data, headers

    def _open(self, method: str, path: str, headers: dict[str, str], what: str) -> Answer:
        """Return the answer to a request, with the user's credentials where they are asked for."""
        tried = False
        for attempt in range(MAX_RETRIES + 1):
            own = {"Authorization": self._authorization} if self._authorization else {}
            answer = self._followed(method, path, {**headers, **own}, what)
            status = answer.response.status
            if status in (200, 206):
                return answer
            challenge = answer.response.headers.get("WWW-Authenticate", "")
            patience = answer.response.headers.get("Retry-After", "")
            answer.connection.close()
            own_word = answer.connection.server == self._found_server()
            if status == 401 and challenge and own_word and not tried:
                tried = True
                self._authorization = self._authorized(token.read(challenge), what)
                continue
            if status in (429, 502, 503, 504) and attempt < MAX_RETRIES and self._wait(patience):
                continue
            raise self._refusal(status, what)
        raise self._refusal(status, what)

    def _wait(self, patience: str) -> bool:
        """Wait as long as a server asks for; False where there is no time for it."""
        seconds = float(patience[:6]) if patience.isdecimal() else 0.5
        if seconds > MAX_PATIENCE or seconds + 0.1 > self.access.left:
            return False
        time.sleep(seconds)
        return True

    def _followed(self, method: str, path: str, headers: dict[str, str], what: str) -> Answer:
        server = first = self._found_server()
        for _ in range(MAX_REDIRECTS + 1):
            # What the registry is told of the user is nobody else's business.
            own = (
                headers
                if server == first
                else {k: v for k, v in headers.items() if k != "Authorization"}
            )
            answer = self._sent(server, method, path, own, what)
            if answer.response.status not in _REDIRECTIONS:
                return answer
            location = answer.response.headers.get("Location", "")
            answer.connection.close()
            server, path = self._target(server, path, location, what)
        raise self._error(f"{what}: more than {MAX_REDIRECTS} redirections", BROKEN)

    def _sent(
        self, server: Server, method: str, path: str, headers: dict[str, str], what: str
    ) -> Answer:
        """Send a request, by a kept connection if there is one that still stands."""
        while True:
            kept = next((c for c in self._idle if c.server == server), None)
            if kept is not None:
                try:
                    self._idle.remove(kept)
                except ValueError:  # another thread was quicker
                    continue
            try:
                connection = kept or self._connect(server)
                return Answer(connection.ask(method, path, headers, self.access), connection)
            except RequestError as problem:
                if kept is not None and problem.kind == DOWN:
                    continue  # the server has closed it meanwhile
                raise self._error(f"{what}: {problem}", problem.kind) from None

    def _connect(self, server: Server) -> Connection:
        return Connection(server, self.access, may_be_local=is_loopback(self.reference.server))

    def _found_server(self) -> Server:
        """Return how the registry is spoken to. On this machine, without TLS where it has none."""
        if self._server is not None:
            return self._server
        address = self.reference.server
        if self.access.is_plain(address):
            self._server = Server("http", address)
            return self._server
        secure = Server("https", address)
        try:
            self._idle.append(Connection(secure, self.access))
        except RequestError as problem:
            if (
                problem.kind != UNTRUSTED
                or not is_loopback(address)
                or "certificate" in str(problem)
            ):
                raise self._error(str(problem), problem.kind) from None
            secure = Server("http", address)
        self._server = secure
        return secure

    def _target(self, server: Server, path: str, location: str, what: str) -> tuple[Server, str]:
        """Return where a redirection leads."""
        from urllib.parse import urljoin, urlsplit

        try:
            split = urlsplit(urljoin(f"{server.scheme}://{server.address}{path}", location))
            _ = split.port
        except ValueError:
            raise self._error(f"{what}: a redirection to no URL", BROKEN) from None
        if server.scheme == "https" and split.scheme != "https":
            raise self._error(f"{what}: a redirection away from TLS is not followed", UNTRUSTED)
        if split.scheme not in ("http", "https") or not split.netloc or "@" in split.netloc:
            raise self._error(f"{what}: a redirection to no web server", BROKEN)
        target = split.path or "/"
        if not (target + split.query).isascii() or any(c <= " " for c in target + split.query):
            raise self._error(f"{what}: a redirection to no URL", BROKEN)
        return Server(split.scheme, split.netloc), target + (
            f"?{split.query}" if split.query else ""
        )

    # --- who asks --------------------------------------------------------------------------------

    def _authorized(self, challenge: token.Challenge, what: str) -> str:
        """Return the Authorization header that a challenge asks for."""
        if self._credentials is None:
            self._credentials = credentials.find(self.reference, self.access)
        own = self._credentials
        if challenge.scheme == "basic":
            if not own.name:
                raise self._refusal(401, what)
            return token.basic(own)
        if challenge.scheme != "bearer":
            raise self._error("it asks for credentials in a way that is not known here", DENIED)
        return f"Bearer {self._token(challenge, own)}"

    def _token(self, challenge: token.Challenge, own: credentials.Credentials) -> str:
        """Ask the token server that the registry names."""
        from urllib.parse import urlsplit

        try:
            realm = urlsplit(challenge.parameters.get("realm", ""))
            server = Server(realm.scheme, realm.netloc)
            plain = realm.scheme == "http" and (
                is_loopback(realm.netloc) or self.access.is_plain(realm.netloc)
            )
            _ = realm.port
        except ValueError:
            raise self._error("it names no token server that can be understood", BROKEN) from None
        if not realm.netloc or "@" in realm.netloc or not (realm.scheme == "https" or plain):
            raise self._error("its token server has no TLS: nothing is sent to it", UNTRUSTED)
        query = token.question(challenge, self.reference.repository, own.token)
        path = realm.path or "/"
        headers = {"Accept": "application/json"}
        try:
            if own.token:
                connection = self._connect(server)
                form = {"Content-Type": "application/x-www-form-urlencoded"}
                response = connection.ask("POST", path, headers | form, self.access, query.encode())
            else:
                if own.name:
                    headers["Authorization"] = token.basic(own)
                joint = f"{realm.query}&" if realm.query else ""
                connection = self._connect(server)
                response = connection.ask("GET", f"{path}?{joint}{query}", headers, self.access)
            status = response.status
            data = body(response, MAX_JSON, connection) if status == 200 else b""
            connection.close()
        except RequestError as problem:
            raise self._error(f"its token server: {problem}", problem.kind) from None
        if status != 200:
            raise self._refusal(status, "a token")
        try:
            found = load(data)
        except DocumentError:
            found = {}
        for name in ("token", "access_token"):
            value = found.get(name)
            if isinstance(value, str) and value.isascii() and value.isprintable() and value:
                return value
        raise self._error("its token server gave no token", BROKEN)

    # --- errors ----------------------------------------------------------------------------------

    def _error(self, cause: str, kind: str) -> RegistryError:
        return RegistryError(f"{clean(str(self.reference), 300)}: {clean(cause, 600)}", kind)

    def _refusal(self, status: int, what: str) -> RegistryError:
        if status in (401, 403):
            return self._error(
                f"the registry refuses {what} ({status}): check the name, or {_LOGIN}", DENIED
            )
        if status == 404:
            return self._error(f"the registry has not {what} (404): check the name", MISSING)
        if status == 429:
            return self._error(f"the registry has had too many requests (429) for {what}", LIMITED)
        if status >= 500:
            return self._error(f"the registry is in trouble ({status}): try again later", DOWN)
        return self._error(f"the registry answers with status {status} for {what}", BROKEN)


def _digest(data: bytes) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"
