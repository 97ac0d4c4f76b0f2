"""Bundles and sandboxes; and that nothing in a directory leads out of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oci_files import need, run

from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import Image, Run, open_image
from slurm_cmeta.image import directory as image_directory
from slurm_cmeta.image.content import Warnings
from slurm_cmeta.image.directory import DirectoryTree, Folder
from slurm_cmeta.image.filetree import Budget, Entry, quick_budget

OUTSIDE = "not in the image"


def refused(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(str(path))
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)[len(f"{path}: ") :]


def tree_of(path: Path, budget: Budget | None = None) -> DirectoryTree:
    return DirectoryTree(Folder(str(path)), "the tree", Warnings(), budget or quick_budget())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root file system, beside a file that is not in it."""
    (tmp_path / "secret").write_text(OUTSIDE)
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "bin" / "sh").write_bytes(b"\x7fELF" + bytes(100_000))
    (root / "etc" / "os-release").write_text("ID=debian\n")
    return root


@pytest.fixture
def alarm() -> Iterator[None]:
    """Fail instead of waiting for ever."""

    def ring(*_: object) -> None:
        raise AssertionError("blocked")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write_bundle(path: Path, root: str = "rootfs", **more: Any) -> Path:
    path.mkdir(exist_ok=True)
    config = {
        "ociVersion": "1.0.2",
        "process": {"env": ["A=b", "PATH=/bin"], "args": ["/bin/sh", "-l"]},
        "root": {"path": root},
        "annotations": {"cpu.target": "zen3", "n": 1},
        **more,
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_bundle(tmp_path: Path, root: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    shutil.copytree(root, bundle / "rootfs")
    with open_image(str(bundle)) as image:
        assert image.format == "oci-bundle"
        assert image.labels() == {"cpu.target": "zen3"}
        assert image.environment() == {"A": "b", "PATH": "/bin"}
        assert image.run() == Run(words=("/bin/sh", "-l"))
        assert image.content.architectures == ()
        tree = image.tree()
        assert tree is not None
        assert tree.text("/etc/os-release", 100) == "ID=debian\n"
        assert image.warnings == []
        inode = os.stat(bundle).st_ino
        assert image.identity.inode == inode
    before = image.identity
    write_bundle(bundle, x=1)
    with open_image(str(bundle)) as image:
        assert image.identity.inode == inode
        assert image.identity != before


def test_real_bundle(tmp_path: Path) -> None:
    need("umoci")
    run("umoci", "init", "--layout", tmp_path / "l")
    run("umoci", "new", "--image", f"{tmp_path}/l:a")
    options = ("--architecture", "arm64", "--config.env", "A=b", "--config.label", "x=y")
    run("umoci", "config", "--image", f"{tmp_path}/l:a", *options)
    run("umoci", "unpack", "--rootless", "--image", f"{tmp_path}/l:a", tmp_path / "bundle")
    with open_image(str(tmp_path / "bundle")) as image:
        assert image.format == "oci-bundle"
        source = "annotation org.opencontainers.image.architecture"
        assert image.content.architectures == (("arm64", source, ""),)
        assert image.environment()["A"] == "b"
        assert image.labels()["x"] == "y"


def test_root_of_a_bundle_may_be_elsewhere(tmp_path: Path, root: Path) -> None:
    for number, where in enumerate((str(root), "../root", "./../root/.")):
        with open_image(str(write_bundle(tmp_path / f"b{number}", where))) as image:
            tree = image.tree()
            assert tree is not None
            assert tree.text("/etc/os-release", 100) == "ID=debian\n"


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("", "config.json has no root.path"),
        ("missing", "no usable root file system missing: does not exist"),
        ("config.json", "root file system config.json: cannot be opened: Not a directory"),
        ("a\nb", r"no usable root file system a\nb: does not exist"),
        ("a\0b", "is no path"),
        ("x/" * 5000, "impossible root.path"),
        ("fifo", "Not a directory"),
    ],
)
@pytest.mark.usefixtures("alarm")
def test_roots_that_cannot_be(tmp_path: Path, where: str, reason: str) -> None:
    bundle = write_bundle(tmp_path / "bundle", where)
    os.mkfifo(bundle / "fifo")
    assert reason in refused(bundle)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"ociVersion":' * 10_000, "nested too deeply"),
        (b'{"ociVersion":"1"}', "no root.path"),
        (b'{"ociVersion":"1","root":[]}', "no root.path"),
        (b'{"ociVersion":"1","root":{"path":7}}', "no root.path"),
        (b'{"model_type":"llama"}', "is a directory, but no image"),
        (b" " * (1 << 20) + b"{}", "config.json of 1048578 bytes"),
    ],
)
def test_broken_configurations(tmp_path: Path, config: bytes, reason: str) -> None:
    (tmp_path / "config.json").write_bytes(config)
    assert reason in refused(tmp_path)


def test_huge_configuration_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", 100 << 30)
    assert "more than" in refused(tmp_path)


@pytest.mark.usefixtures("alarm")
def test_configuration_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert "no image" in refused(tmp_path)


def test_sandbox(root: Path) -> None:
    hidden = root / ".singularity.d"
    (hidden / "env").mkdir(parents=True)
    (hidden / "labels.json").write_text('{"cpu.target": "zen3"}')
    (hidden / "runscript").write_text("#!/bin/sh\nexec /bin/sh\n")
    (hidden / "env" / "90-environment.sh").write_text('export A="b"\n')
    (root / "config.json").write_text("{}")
    with open_image(str(root)) as image:
        assert image.format == "sandbox"
        assert image.labels() == {"cpu.target": "zen3"}
        assert image.environment() == {"A": "b"}
        assert "exec /bin/sh" in image.run().script
        assert image.warnings == []


@pytest.mark.parametrize("mark", ["bin/sh", "usr/bin/x", "etc/os-release"])
def test_plain_root_file_system(tmp_path: Path, mark: str) -> None:
    (tmp_path / mark).parent.mkdir(parents=True)
    (tmp_path / mark).touch()
    (tmp_path / "config.json").write_text('{"of": "an application"}')
    with open_image(f"{tmp_path}/") as image:
        assert image.format == "sandbox"
        assert image.labels() == {}


def test_shell_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("/usr/bin")
    assert open_image(str(tmp_path)).format == "sandbox"


def test_other_directories(tmp_path: Path) -> None:
    assert "is a directory, but no image" in refused(tmp_path)
    (tmp_path / "oci-layout").touch()
    assert refused(tmp_path) == "is an OCI layout without index.json"


ESCAPES = [
    "{top}/secret",
    "../secret",
    "../../../../../../../../../../{top}/secret",
    "/../../{top}/secret",
    "/proc/self/root{top}/secret",
    "/proc/self/cwd/../secret",
]


@pytest.mark.parametrize("target", ESCAPES)
def test_links_never_lead_out(tmp_path: Path, root: Path, target: str) -> None:
    """There is a file of that name outside, and none inside."""
    (root / "etc" / "link").symlink_to(target.format(top=tmp_path))
    (root / "up").symlink_to("../..")
    (root / "out").symlink_to(tmp_path)
    tree = tree_of(root)
    for path in ("/etc/link", "/up/secret", "/out/secret", "/../secret", "/etc/../../secret"):
        assert tree.find(path) is None, path
        assert tree.text(path, 100) == ""
    assert [entry.path for entry in tree.walk()] == ["/bin/sh", "/etc/os-release"]
    assert tree.warnings == []


def test_links_lead_into_the_tree_as_after_chroot(tmp_path: Path, root: Path) -> None:
    inside = root / str(tmp_path)[1:]
    inside.mkdir(parents=True)
    (inside / "secret").write_text("inside")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "etc-too").symlink_to("/etc")
    tree = tree_of(root)
    assert tree.text("/link", 100) == "inside"
    assert tree.text("/etc-too/os-release", 100) == "ID=debian\n"


def test_directory_that_becomes_a_link_on_the_way(tmp_path: Path, root: Path) -> None:
    """An entry is remembered; what is then in its place is not followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "os-release").write_text(OUTSIDE)
    tree = tree_of(root)
    entry = tree.find("/etc/os-release")
    shutil.rmtree(root / "etc")
    (root / "etc").symlink_to(outside)
    assert tree_of(root).find("/etc/os-release") is None
    assert tree_of(root).read(entry) == b""
    fresh = tree_of(root)
    directory = Entry("/etc", "directory", 0, 0o755, None)
    with pytest.raises(Exception, match=r"Not a directory|symbolic links"):
        fresh._child(directory, "os-release")


def test_file_that_becomes_a_link(tmp_path: Path, root: Path) -> None:
    tree = tree_of(root)
    entry = tree.find("/etc/os-release")
    (root / "etc" / "os-release").unlink()
    (root / "etc" / "os-release").symlink_to(tmp_path / "secret")
    assert tree.read(entry) == b""
    assert "no regular file any more" in tree.warnings[0]


@pytest.mark.usefixtures("alarm")
def test_special_files_are_never_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "etc" / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))
    names = []
    real = os.open

    def spy(name: Any, *rest: Any, **more: Any) -> int:
        names.append(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    tree = tree_of(root)
    found = tree.find("/etc/fifo")
    assert found is not None
    assert found.kind == "other"
    assert tree.read(found) == b""
    assert tree.blob("/etc/fifo") is None
    assert sorted(tree.list("/")) == [("bin", "directory"), ("etc", "directory"), ("s", "other")]
    lying = found._replace(kind="file", size=10)
    assert tree.read(lying) == b""
    assert "fifo" not in names
    assert len(list(tree.walk())) == 2


def test_circles_and_depth(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "self").symlink_to(".")
    (root / "long").symlink_to("self/" * 50 + "etc/os-release")
    here = root
    for _ in range(100):
        here = here / "d"
        here.mkdir()
    (here / "deep").touch()
    tree = tree_of(root)
    assert tree.find("/a") is None
    assert tree.find("/long") is None
    assert tree.text("/self/self/etc/os-release", 100) == "ID=debian\n"
    assert len(list(tree.walk())) == 2
    assert "more than 64 deep" in tree.warnings[0]


def test_odd_names(root: Path) -> None:
    names = [b"a\nb", b"\x1b[31m", b"\xff\xfe", b"-rf", b"x" * 255]
    for name in names:
        (root / os.fsdecode(name)).write_bytes(b"data")
    tree = tree_of(root)
    found = {name for name, kind in tree.list("/") if kind == "file"}
    assert found == {os.fsdecode(name) for name in names}
    for name in names:
        assert tree.text("/" + os.fsdecode(name), 10) == "data"
    assert tree.find("/\ud800") is None
    assert tree.find("/a\0b") is None
    assert tree.find("/" + "y" * 300) is None


def test_budget_ends_a_walk(root: Path) -> None:
    for number in range(100):
        (root / f"f{number}").touch()
    tree = tree_of(root, Budget(1 << 20, 50, 5.0))
    assert len(list(tree.walk())) < 60
    assert "was read in part only" in tree.warnings[0]


def test_unreadable_files_are_a_warning(root: Path) -> None:
    """As a user who is not root, for whom there are no such files."""
    (root / "etc" / "os-release").chmod(0)
    (root / "bin").chmod(0)
    os.chmod(root.parent, 0o755)  # noqa: S103
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.chdir(root)
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            tree = tree_of(Path("."))
            assert tree.text("/etc/os-release", 9) == ""
            assert tree.find("/bin/sh") is None
            os.write(write, "\n".join(tree.warnings).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read().splitlines()
    os.waitpid(child, 0)
    (root / "bin").chmod(0o755)
    assert said == [
        "/etc/os-release in the tree cannot be read: Permission denied",
        "/bin/sh in the tree cannot be read: Permission denied",
    ]


def test_file_that_becomes_shorter(root: Path) -> None:
    tree = tree_of(root)
    entry = tree.find("/bin/sh")
    os.truncate(root / "bin" / "sh", 10)
    assert tree.read(entry) == b""
    assert "became shorter" in tree.warnings[0]


def test_closes_its_files(tmp_path: Path, root: Path) -> None:
    before = os.listdir("/proc/self/fd")
    bundle = write_bundle(tmp_path / "bundle", "../root")
    image: Image | None = open_image(str(bundle))
    assert image is not None
    tree = image.tree()
    assert tree is not None
    assert len(list(tree.walk())) == 2
    assert len(tree.read(tree.find("/bin/sh"), 0, 4)) == 4
    image.close()
    image.close()
    assert tree.find("/etc/new") is None
    assert "the image is closed" in image.warnings[0]
    del tree, image
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ImageError):
            open_image(str(path))
    assert os.listdir("/proc/self/fd") == before


def test_names_come_in_order_and_a_few_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"n{number * 7919 % 1000:03}" for number in range(1000)]
    for name in names:
        (tmp_path / name).touch()
    tree = tree_of(tmp_path)
    assert tree.list("/") == [(name, "file") for name in sorted(names)]
    assert [entry.path for entry in tree.entries("/")] == [f"/{name}" for name in sorted(names)]
    assert [name for name, _ in tree.list("/", 2, quiet=True)] == ["n000", "n001"]
    assert tree.warnings == []
    assert len(tree.list("/", 2)) == 2
    assert tree.warnings == ["/ in the tree holds more than 2 names: the others are not looked at"]
    assert tree.whole
    assert tree.entries("/n000") == tree.entries("/none") == ()
    monkeypatch.setattr(image_directory, "MAX_SORTED", 300)
    assert sorted(tree_of(tmp_path).list("/")) == [(name, "file") for name in sorted(names)]


def test_what_was_lost_is_known(root: Path) -> None:
    tree = tree_of(root)
    assert len(list(tree.walk())) == 2
    assert tree.find("/none") is None
    assert tree.whole
    (root / "/".join("d" * 70)).mkdir(parents=True)
    assert len(list(tree.walk())) == 2
    assert not tree.whole
    tree = tree_of(root)
    entry = tree.find("/bin/sh")
    os.truncate(root / "bin" / "sh", 10)
    assert tree.read(entry) == b""
    assert not tree.whole
    tree = tree_of(root, Budget(1 << 20, 1, 5.0))
    assert tree.step()
    assert not tree.step()
    assert not tree.whole
    assert tree.warnings == [
        "the tree was read in part only: too many files would have to be looked at"
    ]


def as_nobody(work: Callable[[], str]) -> str:
    """Return what `work` returns in a process that is not root's."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize(
    ("closed", "reason"),
    [
        (".", "cannot be looked into: Permission denied"),
        ("bin", "cannot be looked into: bin: Permission denied"),
        ("config.json", "cannot be looked into: config.json: Permission denied"),
    ],
)
def test_why_a_directory_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str, reason: str
) -> None:
    place = tmp_path / "image"
    (place / "bin").mkdir(parents=True)
    (place / "bin/sh").touch()
    if closed == "config.json":
        write_bundle(place)
        (place / "bin/sh").unlink()
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    (place / closed).chmod(0)
    monkeypatch.chdir(tmp_path)

    def work() -> str:
        with pytest.raises(ImageError) as caught:
            open_image("image")
        return str(caught.value)

    try:
        assert as_nobody(work) == f"image: {reason}"
        if closed == "bin":  # what can be seen still tells what it is
            (place / "etc").mkdir()
            (place / "etc/os-release").touch()
            assert as_nobody(lambda: open_image("image").format) == "sandbox"
    finally:
        (place / closed).chmod(0o755)


def test_one_budget_from_the_start(tmp_path: Path, root: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", "../root")
    for path in (bundle, root):
        with pytest.raises(ImageError) as caught:
            open_image(str(path), Budget(1 << 20, 0, 5.0))
        assert str(caught.value) == (
            f"{path}: cannot be looked into: too many files would have to be looked at"
        )
        budget = Budget(1 << 20, 100, 5.0)
        with open_image(str(path), budget) as image:
            assert budget.operations < 100
            left = budget.operations
            tree = image.tree()
            assert tree is not None
            assert tree.find("/bin/sh") is not None
            assert budget.operations < left
