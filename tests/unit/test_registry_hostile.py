"""Registries that misbehave: one clear line, in bounded time and memory, and no secret told."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from test_registry_client import TOOLS, home, offered

assert str(TOOLS) in sys.path

import hostile_registry as hostile  # noqa: E402

from slurm_cmeta.pull.offer import read  # noqa: E402
from slurm_cmeta.registry import credentials  # noqa: E402
from slurm_cmeta.registry.access import Access, is_loopback  # noqa: E402
from slurm_cmeta.registry.errors import (  # noqa: E402
    BROKEN,
    DENIED,
    DOWN,
    LIMITED,
    MISSING,
    SLOW,
    UNTRUSTED,
    RegistryError,
)
from slurm_cmeta.registry.http import Connection, RequestError, Server  # noqa: E402
from slurm_cmeta.registry.reference import parse  # noqa: E402

__all__ = ["home"]

SECRET = "canary-of-a-secret"  # noqa: S105
SECONDS = 1.0
WRONG = {"Docker_Content_Digest": "sha256:" + "0" * 64}
BASIC = 'Basic realm="x"'


def asks_for(realm: str) -> Callable[[hostile.Request], None]:
    """Return what sends clients to a token server."""

    def send(request: hostile.Request) -> None:
        where = realm.replace("HERE", request.headers["Host"])
        if request.path.startswith("/token"):
            hostile.reply(request, 200, b'{"token": 3}')
        else:
            header = f'Bearer realm="{where}",service="s",scope="repository:x:push"'
            hostile.reply(request, 401, b"", {"WWW-Authenticate": header})

    return send


CASES: dict[str, tuple[Callable[[hostile.Request], None], str, str]] = {
    "drips its head": (hostile.drip, SLOW, "did not answer in time"),
    "drips its body": (hostile.drip_body, SLOW, "did not answer in time"),
    "says nothing": (hostile.hang, SLOW, "did not answer in time"),
    "dies in the middle": (hostile.die, DOWN, "broke"),
    "never ends": (hostile.endless, BROKEN, "more than 1048576 bytes"),
    "sends 100 MB": (hostile.huge, BROKEN, "has 100000000 bytes, more than 1048576"),
    "packs its answer": (hostile.bomb, BROKEN, "came packed"),
    "sends a long header": (hostile.long_header, BROKEN, "no HTTP"),
    "sends many headers": (hostile.many_headers, BROKEN, "no HTTP"),
    "sends odd chunks": (hostile.odd_chunks, DOWN, "broke"),
    "sends a chunk of -1": (hostile.negative_chunk, BROKEN, "more than can be of use"),
    "has a web page": (hostile.document(b"<html>", Content_Type="text/html"), BROKEN, "web page"),
    "speaks no HTTP": (hostile.no_http, BROKEN, "no HTTP"),
    "is in trouble": (hostile.status(500), DOWN, "in trouble (500)"),
    "has an outage": (hostile.status(503), DOWN, "in trouble (503)"),
    "forbids it": (hostile.status(403), DENIED, "refuses the manifest (403)"),
    "wants a password": (hostile.status(401, WWW_Authenticate=BASIC), DENIED, "(401)"),
    "wants what is not known": (hostile.status(401, WWW_Authenticate="NTLM"), DENIED, "not known"),
    "just says no": (hostile.status(401), DENIED, "refuses the manifest (401)"),
    "has it not": (hostile.status(404), MISSING, "has not the manifest (404)"),
    "has had enough": (hostile.status(429), LIMITED, "too many requests (429)"),
    "wants patience": (hostile.status(429, Retry_After="9999"), LIMITED, "too many requests"),
    "is a teapot": (hostile.status(418), BROKEN, "answers with status 418"),
    "redirects in a loop": (hostile.redirected("http://HERE/v2/x"), BROKEN, "more than 5 redir"),
    "redirects to a file": (hostile.redirected("file:///etc/passwd"), BROKEN, "no web server"),
    "redirects to a user": (hostile.redirected("http://a:b@HERE/"), BROKEN, "no web server"),
    "redirects nowhere": (hostile.redirected("http://[::1"), BROKEN, "to no URL"),
    "redirects with a line end": (hostile.redirected("/v2/a%0d%0aX: y\u00e9"), BROKEN, "to no URL"),
    "lies about the digest": (hostile.document({}, **WRONG), BROKEN, "is not what its digest says"),
    "sends no JSON": (hostile.document(b"<html>"), BROKEN, "is not valid JSON"),
    "sends deep JSON": (hostile.document(b"[" * 500_000), BROKEN, "nested too deeply"),
    "names itself": (hostile.of_itself, BROKEN, "manifest"),
    "names ten thousand": (hostile.document(hostile.MANY), BROKEN, "more than 1048576"),
    "names nothing": (hostile.document({"manifests": []}), BROKEN, "no image in it"),
    "has a token server of its own kind": (asks_for("http://HERE/token"), BROKEN, "gave no token"),
    "has a token server without TLS": (asks_for("http://example.org/t"), UNTRUSTED, "has no TLS"),
    "has no token server": (asks_for("rubbish"), UNTRUSTED, "has no TLS"),
    "has a token server at no port": (asks_for("https://h:x/"), BROKEN, "be understood"),
}


@pytest.fixture(autouse=True)
def _secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPTAINER_DOCKER_USERNAME", "alice")
    monkeypatch.setenv("APPTAINER_DOCKER_PASSWORD", SECRET)


@pytest.mark.parametrize("case", CASES)
def test_a_registry_that(case: str) -> None:
    act, kind, said = CASES[case]
    with hostile.Hostile(act) as server:
        reference = parse(f"docker://{server.address}/org/app:1.0")
        access = Access.within(SECONDS, plain_http=[server.address])
        tracemalloc.start()
        begun = time.monotonic()
        with pytest.raises(RegistryError) as problem:
            read(reference, access)
        spent = time.monotonic() - begun
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(server.requests) <= 12
    assert (problem.value.kind, said in str(problem.value)) == (kind, True), problem.value
    text = str(problem.value)
    assert text.startswith(f"docker://{server.address}/org/app:1.0: ")
    assert text.isprintable()
    assert len(text) < 500
    assert SECRET not in text + repr(problem.value)
    assert base64.b64encode(f"alice:{SECRET}".encode()).decode() not in text
    assert spent < SECONDS + 1
    assert peak < 60e6


def test_a_registry_that_is_down() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RegistryError) as problem:
            offered(address)
    assert problem.value.kind == DOWN
    assert str(problem.value).endswith("it cannot be reached (Connection refused)")


def test_a_registry_whose_name_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(RegistryError) as problem:
        offered("registry.invalid")
    assert problem.value.kind == DOWN
    assert "the host registry.invalid is not known" in str(problem.value)


def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    begun = time.monotonic()
    with pytest.raises(RegistryError) as problem:
        read(parse("docker://registry.invalid/app"), Access.within(0.5))
    assert (problem.value.kind, time.monotonic() - begun < 2) == (SLOW, True)


def test_patience_is_had_where_there_is_time() -> None:
    seen: list[float] = []

    def act(request: hostile.Request) -> None:
        seen.append(time.monotonic())
        if len(seen) < 3:
            hostile.reply(request, 429, b"", {"Retry-After": "0"})
        else:
            hostile.document({"manifests": []})(request)

    with hostile.Hostile(act) as server:
        access = Access.within(5, plain_http=[server.address])
        with pytest.raises(RegistryError) as problem:
            read(parse(f"docker://{server.address}/app"), access)
    assert "no image in it" in str(problem.value)
    assert len(seen) == 3


def test_what_a_registry_is_told_is_told_nobody_else() -> None:
    def act(request: hostile.Request) -> None:
        if "Authorization" not in request.headers:
            hostile.reply(request, 401, b"", {"WWW-Authenticate": BASIC})
        else:
            hostile.reply(request, 307, b"", {"Location": f"http://{other.address}/x"})

    with hostile.Hostile(hostile.status(404)) as other, hostile.Hostile(act) as server:
        access = Access.within(5, plain_http=[server.address])
        with pytest.raises(RegistryError):
            read(parse(f"docker://{server.address}/app"), access)
    assert [path for path, _ in other.requests] == ["/x"]
    assert "Authorization" not in other.requests[0][1]
    assert any("Authorization" in headers for _, headers in server.requests)


def test_whom_one_is_sent_to_cannot_ask_for_a_login() -> None:
    """Its challenge would name any server as the one that checks the registry's passwords."""

    def ask(request: hostile.Request) -> None:
        bearer = f'Bearer realm="http://{other.address}/token",service="s"'
        hostile.reply(request, 401, b"", {"WWW-Authenticate": bearer})

    with hostile.Hostile(ask) as other:
        act = hostile.redirected(f"http://{other.address}/x")
        with hostile.Hostile(act) as server, pytest.raises(RegistryError) as problem:  # noqa: PT012
            access = Access.within(5, plain_http=[server.address])
            read(parse(f"docker://{server.address}/app"), access)
    assert problem.value.kind == DENIED
    assert [path for path, _ in other.requests] == ["/x"]
    assert "Authorization" not in other.requests[0][1]


def test_a_fifo_of_credentials_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APPTAINER_DOCKER_USERNAME")
    (home / ".docker").mkdir()
    os.mkfifo(home / ".docker/config.json")
    found = credentials.find(parse("docker://registry.invalid/app"), Access.within(1))
    assert found == credentials.NOBODY


def test_nothing_packed_is_asked_for_and_no_other_scope() -> None:
    with hostile.Hostile(asks_for("http://HERE/token")) as server, pytest.raises(RegistryError):
        offered(server.address)
    token = next(path for path, _ in server.requests if path.startswith("/token"))
    assert "scope=repository%3Aorg%2Fapp%3Apull" in token
    assert "push" not in token
    assert {headers["Accept-Encoding"] for _, headers in server.requests} == {"identity"}


def test_a_redirection_to_this_machine_is_not_followed() -> None:
    with hostile.Hostile(hostile.status(200)) as server:
        port = server.address.rpartition(":")[2]
        local = Server("http", f"localhost.localdomain:{port}")
        for name in ("127.0.0.1", "localhost"):
            assert is_loopback(f"{name}:{port}")
        with pytest.raises(RequestError) as problem:
            Connection(local, Access.within(2), may_be_local=False)
    assert problem.value.kind in (UNTRUSTED, DOWN)
    assert server.requests == []


def test_a_registry_that_stops_half_way_leaves_what_is_known() -> None:
    """The index was read in time, the manifests were not: the platforms are known all the same."""
    entry = {"mediaType": hostile.MANIFEST, "digest": "sha256:" + "a" * 64}
    arm = {"architecture": "arm64", "os": "linux"}
    index = hostile.document({"manifests": [{**entry, "platform": arm}]})

    def act(request: hostile.Request) -> None:
        (hostile.hang if "sha256" in request.path else index)(request)

    with hostile.Hostile(act) as server:
        access = Access.within(SECONDS, plain_http=[server.address])
        offer = read(parse(f"docker://{server.address}/app"), access)
    assert offer.partial
    (variant,) = offer.variants
    assert (variant.platform, [f.value for f in variant.facts]) == ("linux/arm64", ["aarch64"])


def test_the_files_of_credentials_are_in_no_message(home: Path) -> None:
    document = {"auths": {"127.0.0.1": {"auth": SECRET}}}
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(json.dumps(document))
    refusing = hostile.Hostile(hostile.status(401, WWW_Authenticate=BASIC))
    with refusing as server, pytest.raises(RegistryError) as problem:
        offered(server.address)
    assert SECRET not in str(problem.value)
