"""Damaged and malicious OCI images: a one-line error or part of an answer, nothing else."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oci_files import (
    INDEX,
    LAYOUT,
    MANIFEST,
    SQUASHFS,
    File,
    Store,
    archive,
    link,
    need,
    need_libsquashfs,
    oci_sif,
    squash,
    tar,
    write_layout,
)

from slurm_cmeta import evidence
from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import Image, directory, oci, open_image
from slurm_cmeta.image.content import MAX_WARNINGS
from slurm_cmeta.image.filetree import Budget

MAX_MEMORY = 64 << 20


def survives(path: Path, *, deep: bool = True) -> tuple[Image | None, str]:
    """Read all there is; return the image, or None, and what was said."""
    try:
        budget = Budget(100 << 20, 20_000, 20.0, deep=deep)
        with open_image(str(path), budget) as image:
            evidence.read(image)
            image.run()
            tree = image.tree()
            if tree is not None:
                for entry in tree.walk():
                    tree.read(entry, 0, 1 << 20)
    except ImageError as problem:
        said = str(problem)
        assert said.isprintable()
        assert said.startswith(f"{path}: ")
        return None, said[len(f"{path}: ") :]
    assert len(image.warnings) <= MAX_WARNINGS + 1
    assert all(warning.isprintable() for warning in image.warnings)
    assert all(len(warning) < 1000 for warning in image.warnings)
    return image, "\n".join(image.warnings)


def in_layout(tmp_path: Path, store: Store, index: Any) -> tuple[Image | None, str]:
    return survives(write_layout(tmp_path / "layout", store, index))


DEEP = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
MANY = b'{"manifests":[' + b"[]," * 340_000 + b"{}]}"


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"", "index.json is not valid JSON"),
        (b"{", "index.json is not valid JSON"),
        (b"\xff\xfe", "index.json is not valid JSON"),
        (b"[]", "index.json is not a JSON object"),
        (b"null", "index.json is not a JSON object"),
        (b"[" * 100_000, "index.json is nested too deeply"),
        (DEEP, "index.json is nested too deeply"),
        (b"{}", "without an image in its index"),
        (b'{"manifests":null}', "without an image in its index"),
        (b'{"manifests":[]}', "without an image in its index"),
        (b'{"manifests":[1,null,"x",[]]}', "without an image in its index"),
        (b'{"manifests":[{}]}', "has no usable digest ()"),
        (b'{"manifests":[{"digest":7}]}', "has no usable digest ()"),
        (b'{"manifests":[{"digest":"md5:00"}]}', "has no usable digest (md5:00)"),
        (b'{"manifests":[{"digest":"sha256:../../../../etc/passwd"}]}', "has no usable digest"),
        (b'{"manifests":[{"digest":"sha256:' + b"A" * 64 + b'"}]}', "has no usable digest"),
        (b'{"manifests":[{"digest":"sha256:' + b"0" * 64 + b'"}]}', "is not in the image"),
        (b'{"manifests":[{"digest":"\\u001b[2J\\n"}]}', "has no usable digest (\\x1b[2J\\n)"),
        (b'{"manifests":' + b"9" * 900_000 + b"}", "without an image in its index"),
        (MANY, "without an image in its index"),
        (b" " * (1 << 20) + b"{}", "bytes, more than 1048576"),
    ],
)
def test_indexes(tmp_path: Path, index: bytes, reason: str) -> None:
    image, said = in_layout(tmp_path, Store(), index)
    assert image is None
    assert reason in said
    path = tmp_path / "image.tar"
    path.write_bytes(archive(Store(), index))
    assert survives(path)[0] is None
    path.write_bytes(oci_sif(Store(), index))
    assert survives(path)[0] is None


def test_hundred_megabytes_of_json(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", Store(), b"{}")
    os.truncate(layout / "index.json", 100 << 20)
    assert "bytes, more than" in survives(layout)[1]


MANIFESTS: list[tuple[Any, str]] = [
    (b"", "is not valid JSON"),
    (DEEP, "is nested too deeply"),
    (b"[]", "is not a JSON object"),
    ({}, "neither an index nor"),
    ({"config": {}}, "neither an index nor"),
    ({"config": [], "layers": {}}, "neither an index nor"),
    ({"config": {}, "layers": None}, "neither an index nor"),
    ({"config": {"mediaType": "application/x"}, "layers": []}, "something else"),
    ({"config": {"mediaType": 7}, "layers": []}, ""),
    ({"config": {}, "layers": [None, 7, {}]}, ""),
    ({"config": {}, "layers": [{"digest": "sha256:" + "0" * 64, "mediaType": "x.layer"}]}, ""),
    ({"config": {"digest": "x"}, "layers": [], "annotations": [1]}, ""),
    ({"config": {}, "layers": [], "annotations": {"a": 1, "b\ud800": "\ud800"}}, ""),
    ({"manifests": []}, "without an image"),
    ({"manifests": [{"digest": "sha256:" + "0" * 64}]}, "is not in the image"),
]


@pytest.mark.parametrize(("manifest", "reason"), MANIFESTS)
def test_manifests(tmp_path: Path, manifest: Any, reason: str) -> None:
    store = Store()
    descriptor = store.add(manifest, MANIFEST)
    image, said = in_layout(tmp_path, store, store.index(descriptor))
    assert (image is None) == bool(reason)
    assert reason in said
    if image is not None:
        assert "the configuration of" in said


CONFIGS: list[Any] = [
    b"",
    DEEP,
    b"7",
    {},
    {"architecture": 7, "variant": [], "config": []},
    {"architecture": "\x1b[2J\n" * 100, "variant": "\n", "config": {"Env": 7, "Labels": []}},
    {"architecture": "amd64", "config": {"Env": [7, "x", "=", "A=\ud800"], "Entrypoint": {}}},
    {"architecture": "amd64", "created": 7, "config": {"Cmd": [None], "Labels": {"a": {}}}},
    {"architecture": "amd64", "config": {"Env": [f"A{n}=x" for n in range(20_000)]}},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_configurations(tmp_path: Path, config: Any) -> None:
    store = Store()
    manifest = {"config": store.add(config), "layers": []}
    image, _ = in_layout(tmp_path, store, store.index(store.add(manifest)))
    assert image is not None
    json.dumps([image.labels(), image.environment(), image.run()], ensure_ascii=False).encode()


def test_what_has_not_its_digest_is_not_believed(tmp_path: Path) -> None:
    store = Store()
    made = store.image("arm64", tar(File("a", b"x")), labels={"a": "b"})
    config = json.loads(store.blobs[made["digest"]])["config"]["digest"]
    for number, digest in enumerate((config, made["digest"])):
        kept = store.blobs[digest]
        store.blobs[digest] = kept.replace(b"arm64", b"amd64") + b" "
        layout = write_layout(tmp_path / f"l{number}", store, store.index(made))
        image, said = survives(layout)
        store.blobs[digest] = kept
        assert "has not the digest" in said
        if digest == config:
            assert image is not None
            assert image.labels() == {}
            assert image.content.architectures == (("arm64", "platform in the OCI index", ""),)
        else:
            assert image is None


def test_missing_blobs(tmp_path: Path) -> None:
    for number in range(3):
        store = Store()
        made = store.image("arm64", tar(File("a", b"x")))
        gone = list(store.blobs)[number]
        del store.blobs[gone]
        image, said = survives(write_layout(tmp_path / f"l{number}", store, store.index(made)))
        assert "is not in the image" in said
        assert (image is None) == (gone == made["digest"])


def test_index_of_itself_and_circles(tmp_path: Path) -> None:
    """No index can have its own digest inside; index.json has none, and names may repeat."""
    store = Store()
    made = store.image("arm64")
    inner = store.add(store.index(made, made, *[made] * 300), INDEX)
    image, _ = in_layout(tmp_path, store, store.index(inner, inner, inner))
    assert image is not None
    assert image.content.platforms == ()
    layout = tmp_path / "layout"
    index = json.loads((layout / "index.json").read_bytes())
    (layout / "blobs" / inner["digest"].replace(":", "/")).unlink()
    (layout / "blobs" / inner["digest"].replace(":", "/")).symlink_to("../../index.json")
    assert "has not the digest" in survives(layout)[1]
    assert len(index["manifests"]) == 3


def test_indexes_inside_each_other(tmp_path: Path) -> None:
    store = Store()
    below = store.image("arm64")
    for depth in range(10):
        path = tmp_path / f"l{depth}"
        image, said = survives(write_layout(path, store, store.index(below)))
        assert (image is not None) == (depth < oci.MAX_NESTING)
        if image is None:
            assert "is an index inside 4 others" in said
        below = store.add(store.index(below), INDEX)


def test_a_wide_tree_of_indexes(tmp_path: Path) -> None:
    """100 indexes of 100 indexes each: not more than MAX_DESCRIPTORS are read."""
    store = Store()
    wide = [
        store.add(
            store.index(*(store.add(store.index(n=f"{top}.{n}"), INDEX) for n in range(100))),
            INDEX,
        )
        for top in range(100)
    ]
    image, said = in_layout(tmp_path, store, store.index(*wide))
    assert image is None
    assert "without an image" in said


def test_too_many_manifests(tmp_path: Path) -> None:
    store = Store()
    made = [store.image("arm64", annotations={"n": str(n)}) for n in range(300)]
    image, said = in_layout(tmp_path, store, store.index(*made))
    assert image is not None
    assert len(image.content.platforms) == oci.MAX_DESCRIPTORS
    assert "44 of 300 entries of an index are ignored" in said


def test_much_json_in_all(tmp_path: Path) -> None:
    store = Store()
    filler = "x" * 1_000_000
    made = [store.image("arm64", annotations={"n": f"{n}{filler}"}) for n in range(12)]
    image, said = in_layout(tmp_path, store, store.index(*made))
    assert image is not None
    assert "more than 8388608 bytes of JSON" in said


def test_memory_of_nasty_documents(tmp_path: Path) -> None:
    """1 MiB of JSON grows to 25 MB; three of them are not held at once."""
    store = Store()
    nasty = b'{"x":[' + b"[]," * 300_000 + b"0],"
    config = store.add(nasty + b'"architecture":"arm64"}')
    manifest = nasty + b'"layers":[],"config":' + json.dumps(config).encode() + b"}"
    inner = nasty + b'"manifests":[' + json.dumps(store.add(manifest)).encode() + b"]}"
    index = nasty + b'"manifests":[' + json.dumps(store.add(inner)).encode() + b"]}"
    layout = write_layout(tmp_path / "layout", store, index)
    tracemalloc.start()
    try:
        image, _ = survives(layout)
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    finally:
        tracemalloc.stop()
    assert image is not None
    assert image.content.architectures[0].name == "arm64"


def outer(*files: File) -> Callable[[Path], tuple[Image | None, str]]:
    def write(tmp_path: Path) -> tuple[Image | None, str]:
        path = tmp_path / "image.tar"
        path.write_bytes(tar(*files))
        return survives(path)

    return write


CONFIG = File("c.json", b'{"architecture": "arm64"}')


def docker(listed: Any, *files: File) -> Callable[[Path], tuple[Image | None, str]]:
    data = listed if isinstance(listed, bytes) else json.dumps(listed).encode()
    return outer(CONFIG, *files, File("manifest.json", data))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (outer(File("a", b"x")), "neither an OCI nor a Docker image"),
        (outer(File("index.json", b"{}")), "neither an OCI nor a Docker image"),
        (outer(File("oci-layout", LAYOUT)), "neither an OCI nor a Docker image"),
        (outer(link("index.json", "/etc/passwd"), File("oci-layout")), "neither an OCI"),
        (outer(link("index.json", "index.json"), File("oci-layout")), "neither an OCI"),
        (docker(b""), "manifest.json is not valid JSON"),
        (docker(b"[" * 100_000), "manifest.json is nested too deeply"),
        (docker(b"{}"), "without an image"),
        (docker(b'1,"list":[2]'), "without an image"),
        (docker([]), "without an image"),
        (docker([7, None]), "without an image"),
        (docker([{}]), " is not in it"),
        (docker([{"Config": "\x1b[2J"}]), r"\x1b[2J is not in it"),
        (docker([{"Config": "../../../etc/passwd"}]), "etc/passwd is not in it"),
        (docker([{"Config": "/etc/passwd"}, {"Config": 7}]), "without an undamaged image"),
        (docker([{"Config": "0" * 64 + ".json"}], File("0" * 64 + ".json", b"{}")), "digest"),
    ],
)
def test_archives_that_are_no_image(
    tmp_path: Path, write: Callable[[Path], tuple[Image | None, str]], reason: str
) -> None:
    image, said = write(tmp_path)
    assert image is None
    assert reason in said


@pytest.mark.parametrize(
    "listed",
    [
        [{"Config": "c.json"}],
        [{"Config": "c.json", "Layers": 7, "RepoTags": {}}],
        [{"Config": "c.json", "Layers": [None, "", "x", "../x", "/etc/passwd", "c.json", "."]}],
        [{"Config": "./c.json", "Layers": ["a"] * 10_000}],
        [{"Config": "c.json", "RepoTags": ["\x1b\n" * 1000]}] * 100,
    ],
)
def test_odd_docker_archives(tmp_path: Path, listed: Any) -> None:
    image, _ = docker(listed, File("a", b"x"))(tmp_path)
    assert image is not None
    assert image.content.architectures[0].name == "arm64"


def test_archive_of_many_members(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(tar(*(File(f"f{n}") for n in range(5000)), File("manifest.json", b"[]")))
    image, said = survives(path)
    assert image is None
    assert "neither an OCI nor a Docker image" in said


def test_truncation_at_every_border(tmp_path: Path) -> None:
    store = Store()
    data = archive(store, store.index(store.image("arm64", tar(File("a", b"x" * 3000)))))
    path = tmp_path / "image.tar"
    path.write_bytes(data)
    results = []
    for length in range(len(data) - 1, -1, -173):
        os.truncate(path, length)
        results.append(survives(path)[0] is not None)
    assert results == sorted(results, reverse=True)
    assert any(results)


@pytest.mark.parametrize("kind", ["archive", "sif", "layout"])
def test_flipped_bytes(tmp_path: Path, kind: str) -> None:
    store = Store()
    image = store.image("arm64", tar(File("bin/sh", b"x" * 600)), labels={"a": "b"})
    index = store.index(image, store.image("amd64", platform=False))
    chance = random.Random(kind)  # noqa: S311
    path = tmp_path / "image"
    if kind == "layout":
        write_layout(path, store, index)
        targets = [path / "index.json", *(path / "blobs" / "sha256").iterdir()]
    else:
        path.write_bytes(archive(store, index) if kind == "archive" else oci_sif(store, index))
        targets = [path]
    for _ in range(250):
        target = chance.choice(targets)
        kept = target.read_bytes()
        data = bytearray(kept)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(1, 8)] = chance.choice(
                (b"\0", b"\xff" * 8, b"]", b'"', b"[", bytes((chance.randrange(256),)))
            )
        target.write_bytes(data)
        survives(path)
        target.write_bytes(kept)
    assert survives(path)[0] is not None


def test_special_files_in_a_layout_are_not_opened(tmp_path: Path) -> None:
    store = Store()
    made = store.image("arm64", tar(File("a", b"x")))
    layout = write_layout(tmp_path / "layout", store, store.index(made))
    for digest in store.blobs:
        blob = layout / "blobs" / digest.replace(":", "/")
        kept = blob.read_bytes()
        blob.unlink()
        os.mkfifo(blob)
        said = survives(layout)[1]
        assert "is not in the image" in said
        blob.unlink()
        blob.write_bytes(kept)
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    assert "without index.json" in survives(layout)[1]


def limited(path: Path, descriptors: int = 64) -> list[str]:
    """Return the warnings, or the error, of a process that may have so many descriptors."""
    code = (
        "import json, resource, sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parents[2])]!r}\n"
        "from slurm_cmeta import evidence\n"
        "from slurm_cmeta.image import open_image\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))\n"
        "try:\n"
        f"    with open_image({str(path)!r}) as image:\n"
        "        evidence.read(image)\n"
        "        tree = image.tree()\n"
        "        files = [] if tree is None else list(tree.walk())\n"
        "        text = ''.join(tree.text(f.path, 99) for f in files)\n"
        "        print(json.dumps([f'{len(files)} files', text, *image.warnings]))\n"
        "except Exception as problem:\n"
        "    print(json.dumps([repr(problem)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    found: list[str] = json.loads(done.stdout)
    return found


def many(kind: str) -> tuple[Store, dict[str, Any]]:
    store = Store()
    if kind == "tags":
        made = [
            store.image(
                "amd64", tar(File("x", b"x")), annotations={"n": str(n)}, config={"n": n},
                listed={"org.opencontainers.image.ref.name": f"tag{n}"}, platform=False,
            )
            for n in range(80)
        ]  # fmt: skip
    else:
        made = [store.image("amd64", *(tar(File(f"f{n}", b"x")) for n in range(70)))]
    return store, store.index(*made)


@pytest.mark.parametrize("wrap", ["layout", "archive"])
@pytest.mark.parametrize("kind", ["tags", "layers"])
def test_descriptors_of_a_submission_are_enough(tmp_path: Path, kind: str, wrap: str) -> None:
    store, index = many(kind)
    path = tmp_path / "image"
    if wrap == "layout":
        write_layout(path, store, index)
    else:
        path.write_bytes(archive(store, index))
    files, text, *warnings = limited(path, 40)
    assert files == ("1 files" if kind == "tags" else "70 files")
    assert text == ("x" if kind == "tags" else "x" * 70)
    assert [w for w in warnings if "80 images in it" not in w] == []


def test_descriptors_for_squashfs_layers_and_bundles(tmp_path: Path) -> None:
    need("mksquashfs")
    need_libsquashfs()
    layers = []
    for number in range(40):
        (tmp_path / f"r{number}").mkdir()
        (tmp_path / f"r{number}/f{number}").write_text("x")
        layers.append(squash(tmp_path / f"r{number}", tmp_path / f"s{number}"))
    store = Store()
    index = store.index(store.image("amd64", *layers, layer_type=SQUASHFS))
    path = write_layout(tmp_path / "layout", store, index)
    assert limited(path, 40) == ["40 files", "x" * 40]
    bundle = tmp_path / "bundle"
    (bundle / "rootfs" / "/".join("d" * 50)).mkdir(parents=True)
    (bundle / "rootfs/file").write_text("x")
    (bundle / "config.json").write_text('{"ociVersion": "1", "root": {"path": "rootfs"}}')
    assert limited(bundle, 40)[:2] == ["1 files", "x"]


def test_documents_and_layers_are_closed_again(tmp_path: Path) -> None:
    store, index = many("tags")
    path = write_layout(tmp_path / "layout", store, index)
    before = len(os.listdir("/proc/self/fd"))
    with open_image(str(path)) as image:
        assert len(os.listdir("/proc/self/fd")) <= before + 3
        assert image.tree() is not None
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    store, index = many("layers")
    path = write_layout(tmp_path / "more", store, index)
    before = len(os.listdir("/proc/self/fd"))
    image = open_image(str(path))
    tree = image.tree()
    assert tree is not None
    assert len(os.listdir("/proc/self/fd")) <= before + directory.MAX_OPEN + 3
    blob = next((path / "blobs/sha256").iterdir())
    for blob in (path / "blobs/sha256").iterdir():
        blob.write_bytes(blob.read_bytes() + b"\0")
    os.utime(blob)
    assert [tree.text(f"/f{n}", 9) for n in range(70)].count("x") <= directory.MAX_OPEN
    image.close()
    assert tree.text("/f69", 9) == ""
    del image, tree


def test_a_configuration_that_many_name_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = oci.document

    def document(blobs: Any, digest: str, allowance: Any) -> Any:
        read.append(digest)
        return real(blobs, digest, allowance)

    monkeypatch.setattr(oci, "document", document)
    store = Store()
    config: dict[str, Any] = {"pad": [[]] * 100_000}
    made = [
        store.image("arm64", annotations={"n": str(n)}, config=config, platform=False)
        for n in range(200)
    ]
    image, _ = in_layout(tmp_path, store, store.index(*made))
    assert image is not None
    assert len(image.content.platforms) == 200
    assert len(read) == len(set(read)) == 201


def test_configurations_count_as_json(tmp_path: Path) -> None:
    store = Store()
    made = [
        store.image("arm64", platform=False, config={"pad": f"{n}{'x' * 1_000_000}"})
        for n in range(12)
    ]
    image, said = in_layout(tmp_path, store, store.index(*made))
    assert image is not None
    assert "more than 8388608 bytes of JSON" in said
    assert [stated.name for stated in image.content.platforms].count("arm64") == 8


@pytest.mark.parametrize("wrap", ["layout", "archive", "docker", "sif"])
def test_one_budget_from_the_start(tmp_path: Path, wrap: str) -> None:
    store = Store()
    made = [store.image("amd64", annotations={"n": str(n)}, platform=False) for n in range(30)]
    path = tmp_path / "image"
    index = store.index(*made)
    if wrap == "layout":
        write_layout(path, store, index)
    elif wrap == "archive":
        path.write_bytes(archive(store, index))
    elif wrap == "sif":
        path.write_bytes(oci_sif(store, index))
    else:
        listed = json.dumps([{"Config": "c.json", "RepoTags": ["a"], "Layers": []}]).encode()
        path.write_bytes(tar(CONFIG, File("manifest.json", listed)))
    budget = Budget(1 << 30, 10_000, 60.0)
    with open_image(str(path), budget):
        used = 10_000 - budget.operations
    assert used >= 3
    late = Budget(1 << 30, 10_000, -1.0)
    with pytest.raises(ImageError, match="reading took more than"):
        open_image(str(path), late)
    for operations in range(used):
        try:
            with open_image(str(path), Budget(1 << 30, operations, 60.0)) as image:
                assert image.warnings
        except ImageError as problem:
            assert "too many files" in str(problem)  # noqa: PT017


def test_one_configuration_of_many_docker_images(tmp_path: Path) -> None:
    budget = Budget(1 << 30, 10_000, 60.0)
    listed = [{"Config": "c.json", "RepoTags": [f"a{n}"], "Layers": []} for n in range(30)]
    path = tmp_path / "image.tar"
    path.write_bytes(tar(CONFIG, File("manifest.json", json.dumps(listed).encode())))
    with open_image(str(path), budget) as image:
        assert len(image.content.platforms) == 30
    assert budget.operations >= 10_000 - 5


def test_time_ends_the_search_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(tar(*(File(f"f{n}") for n in range(4000))))
    with pytest.raises(ImageError, match="reading took more than"):
        open_image(str(path), Budget(1 << 30, 10_000, 0.005))
