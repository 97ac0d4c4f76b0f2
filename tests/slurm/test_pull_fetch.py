"""cmeta pull with real registries, Apptainer and skopeo: what arrives, and what is left if not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import hostile_registry as hostile
import pytest
import registry as registries
from conftest import PROJECT, ImageMaker, needs_runtime
from registry import PASSWORD, USER
from trouble import ToolError
from variants import Made, layout

from slurm_cmeta.pull.landing import PREFIX, part_of

pytestmark = needs_runtime

HERE = os.uname().machine
MADE = [Made("amd64"), Made("amd64", "v2"), Made("arm64", "v8")]
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
Pulled = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def app(place: Path) -> Path:
    if HERE != "x86_64":
        pytest.skip("the test images that run are x86_64")
    return layout(place / "fetch-app", MADE)


def running(place: Path, app: Path, **options: bool) -> Iterator[registries.Running]:
    try:
        with registries.registry(place, **options) as found:
            found.push(app, "org/app:1.0")
            yield found
    except ToolError as problem:
        if "not installed" in str(problem):
            pytest.skip(str(problem))
        raise


@pytest.fixture(scope="module")
def plain(place: Path, app: Path) -> Iterator[registries.Running]:
    yield from running(place / "fetch-plain", app)


@pytest.fixture(scope="module")
def secure(place: Path, app: Path) -> Iterator[registries.Running]:
    yield from running(place / "fetch-tls", app, tls=True, accounts=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def environment(here: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    others = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE")
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return {**kept, "HOME": str(here.parent / "home"), "PYTHONPATH": str(PROJECT), **(more or {})}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "slurm_cmeta.cli.main", "pull", *map(str, words)]


def pull(here: Path, *words: object, env: Mapping[str, str] | None = None) -> Pulled:
    return subprocess.run(
        command(*words),
        cwd=here,
        env=environment(here, env),
        capture_output=True,
        text=True,
        timeout=120,
    )


def is_there(done: Pulled, here: Path, *names: str) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert sorted(p.name for p in here.iterdir()) == sorted(names), "and nothing else is left"


def failed(done: Pulled, here: Path, *names: str, code: int = 3) -> str:
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("cmeta: error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in here.iterdir()) == sorted(names)
    return done.stderr


def inside(image: Path) -> str:
    """Return what the image says that it is, by running it."""
    words = ["apptainer", "exec", str(image), "cat", "/etc/image"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def in_layout(place: Path) -> str:
    """Return the digest of the only image in a layout, all of whose blobs are what they should."""
    (entry,) = json.loads((place / "index.json").read_text())["manifests"]
    for blob in (place / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    return str(entry["digest"])


def digest_of(app: Path, number: int) -> str:
    top = json.loads((app / "index.json").read_text())["manifests"][0]["digest"]
    index = json.loads((app / "blobs" / top.replace(":", "/")).read_text())
    return str(index["manifests"][number]["digest"])


# --- what arrives ---------------------------------------------------------------------------------


def test_the_best_variant_becomes_a_sif(here: Path, plain: registries.Running) -> None:
    done = pull(here, f"docker://{plain.address}/org/app:1.0")
    is_there(done, here, "app_1.0.sif")
    assert inside(here / "app_1.0.sif") == "amd64-v2"
    assert done.stderr == (
        f"cmeta: app_1.0.sif: linux/amd64/v2 of docker://{plain.address}/org/app:1.0\n"
    )


@pytest.mark.parametrize(
    ("target", "number", "said"),
    [("nehalem", 1, "amd64-v2"), ("amd64/v1", 0, "amd64"), ("zen4", 1, "amd64-v2")],
)
def test_for_others_than_this_host(
    here: Path, plain: registries.Running, app: Path, target: str, number: int, said: str
) -> None:
    reference = f"docker://{plain.address}/org/app:1.0"
    is_there(pull(here, "--for", target, "-o", "x.sif", reference), here, "x.sif")
    assert inside(here / "x.sif") == said
    done = pull(here, "--for", target, "--format", "oci", "-o", "x", reference)
    is_there(done, here, "x", "x.sif")
    assert in_layout(here / "x") == digest_of(app, number)


def test_another_architecture_is_fetched_for_others(
    here: Path, plain: registries.Running, app: Path
) -> None:
    reference = f"docker://{plain.address}/org/app:1.0"
    words = ("--for", "neoverse_v1", "-o")
    is_there(pull(here, *words, "arm.sif", reference), here, "arm.sif")
    done = pull(here, *words, "arm", "--format", "oci", reference)
    is_there(done, here, "arm", "arm.sif")
    assert in_layout(here / "arm") == digest_of(app, 2)


def test_from_a_layout_on_disk(here: Path, app: Path) -> None:
    is_there(pull(here, "-o", "x.sif", f"oci:{app}"), here, "x.sif")
    assert inside(here / "x.sif") == "amd64-v2"
    done = pull(here, "--format", "oci", "-o", "x", f"oci:{app}")
    is_there(done, here, "x", "x.sif")
    assert in_layout(here / "x") == digest_of(app, 1)


def test_a_file_that_is_there_is_left_alone(
    here: Path, plain: registries.Running, app: Path
) -> None:
    reference = f"docker://{plain.address}/org/app:1.0"
    (here / "x.sif").write_text("mine")
    said = failed(pull(here, "-o", "x.sif", reference), here, "x.sif", code=2)
    assert "x.sif is there already: --force replaces it, -o names another" in said
    assert (here / "x.sif").read_text() == "mine"
    is_there(pull(here, "--force", "-o", "x.sif", reference), here, "x.sif")
    assert inside(here / "x.sif") == "amd64-v2"
    said = failed(
        pull(here, "--force", "--format", "oci", "-o", "x.sif", reference), here, "x.sif", code=2
    )
    assert "a layout is made anew" in said


# --- TLS, and who asks ----------------------------------------------------------------------------


def log_in(here: Path, registry: registries.Running, file: str, password: str = PASSWORD) -> None:
    path = here.parent / "home" / file
    path.parent.mkdir(parents=True)
    pair = base64.b64encode(f"{USER}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {registry.address: {"auth": pair}}}))
    path.chmod(0o600)


@pytest.mark.parametrize("kind", ["sif", "oci"])
@pytest.mark.parametrize(
    "file",
    [".docker/config.json", ".config/containers/auth.json", ".apptainer/docker-config.json"],
)
def test_credentials_serve_whatever_tool_they_are_of(
    here: Path, secure: registries.Running, file: str, kind: str
) -> None:
    log_in(here, secure, file)
    done = pull(
        here,
        *("--format", kind, "-o", "x", f"docker://{secure.address}/org/app:1.0"),
        env={"SSL_CERT_FILE": str(secure.ca)},
    )
    is_there(done, here, "x")
    assert PASSWORD not in done.stderr


@pytest.mark.parametrize("kind", ["sif", "oci"])
def test_certificates_of_the_site_are_believed(
    here: Path, secure: registries.Running, kind: str
) -> None:
    assert secure.ca is not None
    log_in(here, secure, ".docker/config.json")
    certificates = Path("/etc/containers/certs.d")
    was_there = certificates.exists()
    own = certificates / secure.address
    own.mkdir(parents=True)
    try:
        shutil.copy(secure.ca, own / "ca.crt")
        reference = f"docker://{secure.address}/org/app:1.0"
        is_there(pull(here, "--format", kind, "-o", "x", reference), here, "x")
    finally:
        shutil.rmtree(own if was_there else certificates)


def test_without_them_it_says_what_is_missing_and_no_secret(
    here: Path, secure: registries.Running
) -> None:
    reference = f"docker://{secure.address}/org/app:1.0"
    trusted = {"SSL_CERT_FILE": str(secure.ca)}
    assert "its certificate is not trusted" in failed(pull(here, reference), here)
    assert "refuses the manifest (401)" in failed(pull(here, reference, env=trusted), here)
    log_in(here, secure, ".docker/config.json", "wrong-secret")
    said = failed(pull(here, reference, env=trusted), here)
    assert "refuses the manifest (401)" in said
    assert "wrong-secret" not in said


def test_secrets_are_on_no_command_line(
    here: Path, secure: registries.Running, tmp_path: Path
) -> None:
    """Watch all command lines while a tool, slowed down, has what it needs."""
    log_in(here, secure, ".config/containers/auth.json")
    slow = tmp_path / "slow"
    slow.mkdir()
    for tool in ("apptainer", "skopeo"):
        real = shutil.which(tool)
        (slow / tool).write_text(f'#!/bin/sh\nsleep 0.5\nexec {real} "$@"\n')
        (slow / tool).chmod(0o755)
    secrets = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    for kind in ("sif", "oci"):
        process = subprocess.Popen(
            command("--format", kind, "-o", kind, f"docker://{secure.address}/org/app:1.0"),
            cwd=here,
            env=environment(
                here,
                {"SSL_CERT_FILE": str(secure.ca), "PATH": f"{slow}:{os.environ['PATH']}"},
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = []
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(path.read_bytes().decode(errors="replace"))
                except OSError:
                    continue
            for kept in here.glob(".cmeta-*"):
                with contextlib.suppress(FileNotFoundError):
                    assert kept.stat().st_mode & 0o077 == 0
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
        assert any(str(slow) in line for line in seen), "the tool was seen"
        assert not any(secret in line for line in seen for secret in secrets)
    assert sorted(p.name for p in here.iterdir()) == ["oci", "sif"]


# --- a SIF in a registry --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pushed(plain: registries.Running, make_image: ImageMaker) -> Path:
    """A SIF that Apptainer has pushed as an artifact, as org/sif:1.0."""
    image = make_image("pushed-as-artifact")
    target = f"oras://{plain.address}/org/sif:1.0"
    words = ["apptainer", "push", "--no-https", "--allow-unsigned", str(image), target]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode and "unknown flag: --no-https" in done.stderr:
        words.remove("--no-https")
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return image


def test_a_sif_comes_as_it_was_pushed(here: Path, plain: registries.Running, pushed: Path) -> None:
    for scheme in ("oras", "docker"):
        done = pull(here, "--force", "-o", "x.sif", f"{scheme}://{plain.address}/org/sif:1.0")
        is_there(done, here, "x.sif")
        assert (here / "x.sif").read_bytes() == pushed.read_bytes()


class Oras:
    """A registry with one SIF, of which `first` bytes come at the first try."""

    def __init__(self, image: bytes, first: int, *, lie: bool = False, ranges: bool = True) -> None:
        self.image, self.first, self.ranges = image, first, ranges
        digest = hashlib.sha256(image + b"x" * lie).hexdigest()
        config = {"mediaType": SIF_CONFIG, "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}"}
        layer = {"mediaType": SIF_LAYER, "digest": f"sha256:{digest}", "size": len(image)}
        document = {
            "schemaVersion": 2,
            "mediaType": hostile.MANIFEST,
            "config": {**config, "size": 2},
            "layers": [layer],
        }
        self.manifest = json.dumps(document).encode()
        self.asked: list[str] = []

    def __call__(self, request: hostile.Request) -> None:
        if request.path.endswith(("/manifests/1", hashlib.sha256(self.manifest).hexdigest())):
            kind = {"Content-Type": hostile.MANIFEST}
            hostile.reply(request, 200, self.manifest, kind)
            return
        if "/blobs/" not in request.path:
            hostile.reply(request, 404)
            return
        if request.path.endswith(hashlib.sha256(b"{}").hexdigest()):
            hostile.reply(request, 200, b"{}")
            return
        wanted = request.headers.get("Range", "")
        self.asked.append(wanted)
        if wanted and self.ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            hostile.reply(request, 206, self.image[begin:])
        elif len(self.asked) == 1:
            request.send_response(200)
            request.send_header("Content-Length", str(len(self.image)))
            request.end_headers()
            request.wfile.write(self.image[: self.first])
            request.close_connection = True
        else:
            hostile.reply(request, 200, self.image)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_broke_off_goes_on(here: Path, pushed: Path, ranges: bool) -> None:
    image = pushed.read_bytes()
    registry = Oras(image, 100_000, ranges=ranges)
    with hostile.Hostile(registry) as server:
        is_there(pull(here, "-o", "x.sif", f"oras://{server.address}/a/b:1"), here, "x.sif")
    assert (here / "x.sif").read_bytes() == image
    assert registry.asked == ["", "bytes=100000-"]


def test_a_part_that_is_not_of_it_is_not_taken(here: Path, pushed: Path) -> None:
    registry = Oras(pushed.read_bytes(), 100_000)
    with hostile.Hostile(registry) as server:
        words = ("-o", "x.sif", f"oras://{server.address}/a/b:1")
        digest = f"sha256:{hashlib.sha256(pushed.read_bytes()).hexdigest()}"
        Path(part_of(f"{here}/x.sif", digest)).write_bytes(b"y" * 100_000)
        said = failed(pull(here, *words), here)
        assert "the SIF is not what its digest says: not taken" in said
        is_there(pull(here, *words), here, "x.sif")


def test_a_wrong_digest_leaves_nothing(here: Path, pushed: Path) -> None:
    with hostile.Hostile(Oras(pushed.read_bytes(), 1 << 40, lie=True)) as server:
        said = failed(pull(here, "-o", "x.sif", f"oras://{server.address}/a/b:1"), here)
    assert "the SIF is not what its digest says: not taken" in said


def test_what_is_no_sif_is_not_taken(here: Path) -> None:
    with hostile.Hostile(Oras(b"#!/bin/sh\necho rubbish\n" * 100, 1 << 40)) as server:
        failed(pull(here, "-o", "x.sif", f"oras://{server.address}/a/b:1"), here)


def test_two_at_once_do_not_spoil_each_others_file(here: Path, pushed: Path) -> None:
    image = pushed.read_bytes()

    class Slow(Oras):
        def __call__(self, request: hostile.Request) -> None:
            if request.path.endswith(hashlib.sha256(image).hexdigest()):
                time.sleep(4)
            super().__call__(request)

    with hostile.Hostile(Slow(image, 1 << 40)) as server:
        words = ("-o", "x.sif", f"oras://{server.address}/a/b:1")
        first = subprocess.Popen(command(*words), cwd=here, env=environment(here))
        while not list(here.glob(f"{PREFIX}x.sif.*.part")):
            assert first.poll() is None
            time.sleep(0.02)
        second = pull(here, *words)
        assert "another process is fetching it" in second.stderr
        assert first.wait(30) == 0
    is_there(subprocess.CompletedProcess([], 0, "", ""), here, "x.sif")
    assert (here / "x.sif").read_bytes() == image


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("tool", ["apptainer", "skopeo"])
def test_a_pull_that_is_stopped_leaves_nothing(
    here: Path, plain: registries.Running, tmp_path: Path, number: int, tool: str
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / tool).write_text("#!/bin/sh\necho begun > half; exec sleep 60\n")
    (slow / tool).chmod(0o755)
    kind = "sif" if tool == "apptainer" else "oci"
    process = subprocess.Popen(
        command("--format", kind, "-o", "x", f"docker://{plain.address}/org/app:1.0"),
        cwd=here,
        env=environment(here, {"PATH": f"{slow}:{os.environ['PATH']}"}),
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(200):
        if list(here.glob(".cmeta-*/half")):
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    assert list(here.iterdir()) == []


def test_a_tool_that_takes_too_long_is_stopped(
    here: Path, plain: registries.Running, tmp_path: Path
) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "apptainer").write_text("#!/bin/sh\nexec sleep 60\n")
    (slow / "apptainer").chmod(0o755)
    began = time.monotonic()
    done = pull(
        *(here, "--timeout", "2", "-o", "x.sif", f"docker://{plain.address}/org/app:1.0"),
        env={"PATH": f"{slow}:{os.environ['PATH']}"},
    )
    assert failed(done, here) == "cmeta: error: apptainer build was not ready in time\n"
    assert time.monotonic() - began < 10


def test_a_variant_whose_label_lies_is_not_taken(
    here: Path, plain: registries.Running, place: Path
) -> None:
    liar = layout(place / "fetch-liar", [Made("amd64", "v2", truly="arm64")])
    plain.push(liar, "org/liar:1.0")
    for reference in (f"docker://{plain.address}/org/liar:1.0", f"oci:{liar}"):
        said = failed(pull(here, "-o", "x.sif", reference), here)
        assert "is for x86_64, and the programs in it are for aarch64: not taken" in said


def test_a_layer_that_is_not_what_its_digest_says_is_not_taken(here: Path, place: Path) -> None:
    broken = layout(place / "fetch-broken", [Made("amd64")])
    layer = max((broken / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    original = layer.read_bytes()
    data = bytearray(original)
    data[len(data) // 2] ^= 1
    layer.write_bytes(data)
    for kind in ("sif", "oci"):
        said = failed(pull(here, "--format", kind, "-o", "x", f"oci:{broken}"), here)
        assert f"{layer.name} is not what its digest says: not taken" in said

    def serve(request: hostile.Request) -> None:
        name = request.path.rpartition("/")[2].removeprefix("sha256:")
        kind = hostile.MANIFEST if "/manifests/" in request.path else "application/octet-stream"
        blob = broken / "blobs/sha256" / name
        if request.path == "/v2/":
            hostile.reply(request, 200, b"{}")
        elif name == "1" or blob.exists():
            manifest = digest_of(broken, 0).removeprefix("sha256:")
            blob = blob.with_name(manifest) if name == "1" else blob
            hostile.reply(request, 200, blob.read_bytes(), {"Content-Type": kind})
        else:
            hostile.reply(request, 404)

    with hostile.Hostile(serve) as server:
        for kind, tool in (("sif", "apptainer build"), ("oci", "skopeo copy")):
            words = ("--format", kind, "-o", "x", f"docker://{server.address}/a/b:1")
            assert f"{tool} failed: " in failed(pull(here, *words), here)
        layer.write_bytes(original)
        is_there(pull(here, "-o", "x", f"docker://{server.address}/a/b:1"), here, "x")


def test_a_full_disk_is_said_before_and_in_the_middle(
    here: Path, plain: registries.Running, pushed: Path
) -> None:
    unstated = Oras(pushed.read_bytes(), 1 << 40)
    document = json.loads(unstated.manifest)
    document["layers"][0]["size"] = 0
    unstated.manifest = json.dumps(document).encode()
    script = 'mount -t tmpfs -o size=256k none . && cd . && cd "$PWD" && exec "$@"'
    with hostile.Hostile(unstated) as server:
        for reference, words in (
            (f"docker://{plain.address}/org/app:1.0", "MiB left"),
            (f"oras://{server.address}/a/b:1", "No space left on device"),
        ):
            done = subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", *command("-o", "x.sif", reference)],
                cwd=here,
                env=environment(here),
                capture_output=True,
                text=True,
            )
            assert words in failed(done, here)


def test_the_store_gives_the_path_and_fetches_once(here: Path, plain: registries.Running) -> None:
    reference = f"docker://{plain.address}/org/app:1.0"
    (here / "store").mkdir()
    first = pull(here, "--store", here / "store", reference)
    assert (first.returncode, first.stderr) == (0, "")
    image = Path(first.stdout.strip())
    assert image.parent == here / f"store/slurm-cmeta-{os.geteuid()}"
    assert inside(image) == "amd64-v2"
    before = image.stat().st_mtime_ns
    assert pull(here, "--store", here / "store", reference).stdout == first.stdout
    assert image.stat().st_mtime_ns == before


# --- the documentation ----------------------------------------------------------------------------


def test_the_recipes_of_the_documentation_work(
    here: Path, secure: registries.Running, app: Path, tmp_path: Path
) -> None:
    if not shutil.which("podman"):
        pytest.skip("podman is not installed")
    page = (PROJECT / "docs/pull.md").read_text()
    recipes = [
        line[4:] for line in page[page.index("## Recipes") :].splitlines() if line[:4] == " " * 4
    ]
    assert len(recipes) == 7
    log_in(here, secure, ".docker/config.json")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cmeta").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m slurm_cmeta.cli.main "$@"\n'
    )
    (tmp_path / "bin/cmeta").chmod(0o755)
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\nrunroot = "{tmp_path}/run"\ngraphroot = "{tmp_path}/graph"\n'
    )
    variables = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SSL_CERT_FILE": str(secure.ca),
        "CONTAINERS_STORAGE_CONF": str(storage),
    }
    script = "\n".join(recipes).replace("registry.example.org", secure.address)
    done = subprocess.run(
        ["sh", "-ex", "-c", script],
        cwd=here,
        env=environment(here, variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert in_layout(here / "app") == digest_of(app, 1)
    assert inside(here / "app.sif") == "amd64-v2"
