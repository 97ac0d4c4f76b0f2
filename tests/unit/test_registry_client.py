"""A real registry: what is asked of it, and who asks."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_files import Store, write_layout
from test_offer import application, needs

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import registry as registries  # noqa: E402
from trouble import ToolError  # noqa: E402

from slurm_cmeta.pull.offer import read  # noqa: E402
from slurm_cmeta.pull.variant import Offer  # noqa: E402
from slurm_cmeta.registry.access import Access  # noqa: E402
from slurm_cmeta.registry.client import Registry  # noqa: E402
from slurm_cmeta.registry.errors import DENIED, MISSING, UNTRUSTED, RegistryError  # noqa: E402
from slurm_cmeta.registry.reference import parse  # noqa: E402


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's credentials and proxies but the test's."""
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store()
    index = application(store)
    top = store.add(index, index["mediaType"])
    return write_layout(tmp_path_factory.mktemp("layout") / "app", store, store.index(top))


def started(place: Path, layout: Path, **options: Any) -> Iterator[registries.Running]:
    try:
        with registries.registry(place, **options) as running:
            running.push(layout, "org/app:1.0")
            yield running
    except ToolError as problem:
        if "not installed" in str(problem):
            pytest.skip(str(problem))
        raise


@pytest.fixture(scope="module")
def plain(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Running]:
    yield from started(tmp_path_factory.mktemp("plain"), layout)


@pytest.fixture(scope="module")
def secure(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[registries.Running]:
    yield from started(tmp_path_factory.mktemp("tls"), layout, tls=True, accounts=True)


def offered(address: str, name: str = "org/app:1.0", **options: Any) -> Offer:
    return read(parse(f"docker://{address}/{name}"), Access.within(10), **options)


def test_the_index_of_a_registry_is_read(plain: registries.Running) -> None:
    offer = offered(plain.address)
    assert len(offer.variants) == 7
    assert needs(offer.variants[3]) == {"arch": "x86_64", "cpu": "x86_64_v4"}
    assert (offer.partial, offer.warnings) == (False, ())
    pinned = offered(plain.address, f"org/app@{offer.digest}")
    assert pinned == offer
    single = offered(plain.address, f"org/app@{offer.variants[4].digest}")
    assert [v.digest for v in single.variants] == [offer.variants[4].digest]


def test_no_layer_is_asked_for_and_nothing_twice(plain: registries.Running) -> None:
    before = len(plain.asked())
    offer = offered(plain.address, families=frozenset({"x86_64"}))
    subprocess.run(["sync"], check=True)
    asked = plain.asked()[before:]
    assert len([one for one in asked if "/manifests/" in one]) in (0, 5), asked
    assert len(asked) == len(set(asked))
    assert [v.size > 0 for v in offer.variants] == [True] * 4 + [False] * 3


@pytest.mark.parametrize("name", ["org/none:1", "org/app:none", "org/app@sha256:" + "0" * 64])
def test_what_is_not_there_is_said(plain: registries.Running, name: str) -> None:
    with pytest.raises(RegistryError) as problem:
        offered(plain.address, name)
    assert problem.value.kind == MISSING
    assert str(problem.value).endswith("has not the manifest (404): check the name")


def test_blobs_can_be_had_from_the_middle(plain: registries.Running, layout: Path) -> None:
    reference = parse(f"docker://{plain.address}/org/app:1.0")
    registry = Registry(reference, Access.within(10))
    data = b"layer of v4"
    blob = next(p for p in (layout / "blobs/sha256").iterdir() if p.read_bytes() == data)
    answer = registry.open_blob(f"sha256:{blob.name}", 6)
    assert (answer.response.status, answer.response.read()) == (206, b"of v4")
    registry.release(answer)
    assert registry.blob(f"sha256:{blob.name}") == data
    assert registry.referrers(f"sha256:{blob.name}") == []
    registry.close()


# --- TLS, and who asks ----------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_not_believed(secure: registries.Running) -> None:
    with pytest.raises(RegistryError) as problem:
        offered(secure.address)
    assert problem.value.kind == UNTRUSTED
    assert "/etc/containers/certs.d/HOST:PORT/ca.crt" in str(problem.value)


@pytest.fixture
def trusted(secure: registries.Running, monkeypatch: pytest.MonkeyPatch) -> registries.Running:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.ca))
    return secure


def test_without_credentials_the_way_to_them_is_said(trusted: registries.Running) -> None:
    with pytest.raises(RegistryError) as problem:
        offered(trusted.address)
    assert problem.value.kind == DENIED
    assert "apptainer registry login" in str(problem.value)


def pair(password: str = registries.PASSWORD) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{registries.USER}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "place",
    [".docker/config.json", ".config/containers/auth.json", ".apptainer/docker-config.json"],
)
@pytest.mark.parametrize("key", ["", "/org", "/org/app"])
def test_credentials_are_found_where_other_clients_keep_them(
    trusted: registries.Running, home: Path, place: str, key: str
) -> None:
    file = home / place
    file.parent.mkdir(parents=True)
    wrong = {"other.host": pair("wrong"), f"{trusted.address}/other": pair("wrong")}
    file.write_text(json.dumps({"auths": {**wrong, trusted.address + key: pair()}}))
    assert len(offered(trusted.address).variants) == 7


def test_the_most_specific_credentials_win(trusted: registries.Running, home: Path) -> None:
    (home / ".docker").mkdir()
    auths = {trusted.address: pair("wrong"), f"{trusted.address}/org/app": pair()}
    (home / ".docker/config.json").write_text(json.dumps({"auths": auths}))
    assert len(offered(trusted.address).variants) == 7


def test_apptainers_variables_win(
    trusted: registries.Running, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(json.dumps({"auths": {trusted.address: pair("no")}}))
    monkeypatch.setenv("APPTAINER_DOCKER_USERNAME", registries.USER)
    monkeypatch.setenv("APPTAINER_DOCKER_PASSWORD", registries.PASSWORD)
    assert len(offered(trusted.address).variants) == 7


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_credential_helper_is_asked(
    trusted: registries.Running, home: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    helper = home / "docker-credential-test"
    said = json.dumps({"Username": registries.USER, "Secret": registries.PASSWORD})
    asked = f'[ "$1" = get ] && [ "$(cat)" = {trusted.address} ]'
    helper.write_text(f"#!/bin/sh\n{asked} && echo '{said}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    value: object = "test" if key == "credsStore" else {trusted.address: "test"}
    (home / ".docker").mkdir()
    document = {key: value, "auths": {trusted.address: {}}}
    (home / ".docker/config.json").write_text(json.dumps(document))
    assert len(offered(trusted.address).variants) == 7


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        '{"auths": 3}',
        '{"auths": {"ADDRESS": {"auth": "%%%"}}}',
        "[" * 100_000,
        '{"credsStore": "../evil"}',
        '{"credHelpers": {"ADDRESS": "x;y"}}',
        '{"credsStore": "gone"}',
    ],
)
def test_a_broken_file_of_credentials_is_none(
    trusted: registries.Running, home: Path, document: str
) -> None:
    (home / ".docker").mkdir()
    text = document.replace("ADDRESS", trusted.address)
    (home / ".docker/config.json").write_text(text)
    with pytest.raises(RegistryError) as problem:
        offered(trusted.address)
    assert problem.value.kind == DENIED


def test_a_wrong_password_is_refused_and_never_shown(
    trusted: registries.Running, home: Path
) -> None:
    (home / ".docker").mkdir()
    auths = {trusted.address: pair("canary-wrong")}
    (home / ".docker/config.json").write_text(json.dumps({"auths": auths}))
    with pytest.raises(RegistryError) as problem:
        offered(trusted.address)
    assert problem.value.kind == DENIED
    assert "canary" not in repr(problem.value) + str(problem.value)


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_asked_for_once(plain: registries.Running, home: Path) -> None:
    with registries.Gate(plain.address) as gate:
        (home / ".docker").mkdir()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {gate.address: pair()}}))
        assert len(offered(gate.address).variants) == 7
        tokens = [path for path, _ in gate.seen if path.startswith("/token")]
        assert tokens == ["/token?scope=repository%3Aorg%2Fapp%3Apull&service=test"]
        basic = [path for path, said in gate.seen if said.startswith("Basic")]
        assert basic == tokens, "the password goes to the token server alone"


def test_an_identity_token_is_changed_for_one(plain: registries.Running, home: Path) -> None:
    with registries.Gate(plain.address) as gate:
        gate.refresh = "canary-identity"
        entry = {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": gate.refresh}
        (home / ".docker").mkdir()
        (home / ".docker/config.json").write_text(json.dumps({"auths": {gate.address: entry}}))
        assert len(offered(gate.address).variants) == 7
        assert not any("canary" in path for path, _ in gate.seen)


def test_without_credentials_a_token_server_refuses(plain: registries.Running) -> None:
    with registries.Gate(plain.address) as gate, pytest.raises(RegistryError) as problem:
        offered(gate.address)
    assert problem.value.kind == DENIED
