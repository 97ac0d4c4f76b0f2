"""The sound images that fuzz.py mutates: every format, with all kinds of evidence in them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import elf_files
import oci_files
import sif_files

LABELS = {
    "org.label-schema.build-arch": "amd64",
    "io.archspec.cpu.target": "zen3",
    "org.supercontainers.mpi": "openmpi",
    "com.nvidia.cuda.version": "12.4",
    "io.slurm-cmeta.memory": "16 GiB",
}
OCI = {
    "Env": [
        "PATH=/usr/bin",
        "NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470",
        "CUDA_VERSION=12.4",
    ],
    "Labels": LABELS,
    "Entrypoint": ["/opt/app/bin/app"],
}


def build(work: Path) -> list[Path]:
    """Build the images into `work`; needs mksquashfs, and skips what it cannot build."""
    tree = _tree(work / "tree")
    found = []
    for compressor in ("gzip", "xz", "zstd", "lz4", "lzo"):
        squashfs = work / f"{compressor}.sqsh"
        _squashfs(tree, squashfs, "-comp", compressor, "-b", "16K")
        found += [squashfs, _sif(work / f"{compressor}.sif", squashfs)]
    plain = work / "plain.sqsh"
    _squashfs(tree, plain, "-noI", "-noD", "-noF", "-noX", "-b", "16K")
    found += [plain, _sif(work / "plain.sif", plain)]
    launch = work / "launch.img"
    launch.write_bytes(b"#!/usr/bin/env run-singularity\n" + plain.read_bytes())
    found += [launch, tree, *_bundle(work, tree), *_oci(work, tree)]
    return found


def _tree(tree: Path) -> Path:
    """An image's files: small, and with something for every reader of evidence."""
    for directory in ("bin", "etc", "lib64", "opt/app/bin", "opt/app/lib", ".singularity.d/env"):
        (tree / directory).mkdir(parents=True)
    (tree / "var/lib/dpkg/info").mkdir(parents=True)
    (tree / "opt/spack-environment").mkdir()
    loader = "/lib64/ld-linux-x86-64.so.2"
    asked = {"libc.so.6": ("GLIBC_2.34",)}
    program = elf_files.elf(
        interpreter=loader,
        needed=("libmpi.so.40", "libcuda.so.1", "libc.so.6"),
        kernel=(3, 2, 0),
        isa=7,
        asked=asked,
        sections={".text": b"\x90" * 64, ".nv_fatbin": b"\x50\xed\x55\xba" + bytes(60)},
    )
    (tree / "opt/app/bin/app").write_bytes(program)
    shutil.copy("/bin/true", tree / "bin/sh")
    (tree / "opt/app/lib/libmpi.so.40").symlink_to("libmpi.so.40.30.4")
    (tree / "opt/app/lib/libmpi.so.40.30.4").write_bytes(elf_files.elf(soname="libmpi.so.40"))
    (tree / "lib64/libc.so.6").write_bytes(elf_files.GLIBC)
    (tree / "lib64/ld-linux-x86-64.so.2").write_bytes(elf_files.elf())
    for path in (tree / "opt/app/bin/app", tree / "lib64/ld-linux-x86-64.so.2"):
        path.chmod(0o755)
    if os.path.isfile("/etc/ld.so.cache"):
        data = Path("/etc/ld.so.cache").read_bytes()
        (tree / "etc/ld.so.cache").write_bytes(data[:8192])
    (tree / "etc/os-release").write_text('ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian 12"\n')
    (tree / "var/lib/dpkg/status").write_text(
        "Package: dash\nStatus: install ok installed\nVersion: 0.5\n\n" * 3
    )
    (tree / "var/lib/dpkg/info/dash.list").write_text("/.\n/bin\n/bin/sh\n")
    (tree / ".singularity.d/labels.json").write_text(json.dumps(LABELS))
    (tree / ".singularity.d/runscript").write_text('#!/bin/sh\nexec /opt/app/bin/app "$@"\n')
    (tree / ".singularity.d/env/90-environment.sh").write_text("export LC_ALL=C\n")
    (tree / "opt/spack-environment/spack.lock").write_text(
        json.dumps(
            {
                "roots": [{"hash": "a", "spec": "app"}],
                "concrete_specs": {"a": {"name": "app", "arch": {"target": {"name": "zen4"}}}},
            }
        )
    )
    return tree


def _squashfs(tree: Path, target: Path, *options: str) -> None:
    command = ["mksquashfs", str(tree), str(target), "-noappend", "-quiet", "-no-progress"]
    subprocess.run([*command, *options], check=True)


def _sif(path: Path, squashfs: Path) -> Path:
    path.write_bytes(
        sif_files.build(
            sif_files.Part(0x4001, b"Bootstrap: docker\nFrom: debian:12\n", "deffile"),
            sif_files.metadata(LABELS),
            sif_files.raw_json(json.dumps(OCI).encode(), "oci-config.json"),
            sif_files.partition(data=squashfs.read_bytes()),
            sif_files.signature(),
        )
    )
    return path


def _bundle(work: Path, tree: Path) -> list[Path]:
    bundle = work / "bundle"
    bundle.mkdir()
    shutil.copytree(tree, bundle / "rootfs", symlinks=True)
    process = {"args": ["/opt/app/bin/app"], "env": OCI["Env"]}
    (bundle / "config.json").write_text(
        json.dumps({"ociVersion": "1.0.2", "process": process, "root": {"path": "rootfs"}})
    )
    return [bundle]


def _oci(work: Path, tree: Path) -> list[Path]:
    """An OCI layout and archives of OCI and of Docker with tar layers, and an OCI-SIF."""
    layer = _tar_of(tree)
    found = []
    for name, blob, media_type in (
        ("plain", layer, oci_files.LAYER),
        ("packed", gzip.compress(layer), f"{oci_files.LAYER}+gzip"),
    ):
        store = oci_files.Store()
        index = store.index(
            store.image("amd64", blob, config={"config": OCI}, layer_type=media_type, variant="v3"),
            store.image("arm64", layer, annotations={"a": "b"}),
        )
        archive = work / f"{name}.oci.tar"
        archive.write_bytes(oci_files.archive(store, index))
        found += [archive, oci_files.write_layout(work / f"{name}.layout", store, index)]
    squashfs = (work / "zstd.sqsh").read_bytes()
    store = oci_files.Store()
    image = store.image("amd64", squashfs, config={"config": OCI}, layer_type=oci_files.SQUASHFS)
    sif = work / "oci.sif"
    sif.write_bytes(oci_files.oci_sif(store, store.index(image)))
    docker = work / "docker.tar"
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": OCI}).encode()
    manifest = [{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}]
    docker.write_bytes(
        oci_files.tar(
            oci_files.File("c.json", config),
            oci_files.File("l/layer.tar", layer),
            oci_files.File("manifest.json", json.dumps(manifest).encode()),
        )
    )
    return [*found, sif, docker]


def _tar_of(tree: Path) -> bytes:
    """The tree as one layer, and a whiteout."""
    files = [oci_files.File("etc/.wh.none")]
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            files.append(oci_files.link(name, os.readlink(path)))
        elif path.is_dir():
            files.append(oci_files.directory(name))
        else:
            files.append(oci_files.File(name, path.read_bytes(), mode=path.stat().st_mode & 0o777))
    return oci_files.tar(*files)
