"""Measure: `make bench`, or `python3 tests/tools/bench.py [--json FILE] [--quick]`.

Every figure is a ratio of two things that were run by turns on the same machine, or is printed with
what it was measured on; nothing here passes or fails. Needs mksquashfs, siftool and the Debian
packages of packages.sh, so it is run in the Debian root of root.py.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import images
from pairs import command, pairs

PROJECT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
sys.path.insert(0, str(PROJECT))

CMETA = (
    *(PYTHON, "-I", "-c"),
    f"import sys; sys.path.insert(0, {str(PROJECT)!r}); sys.argv[0] = 'cmeta'; "
    "from slurm_cmeta.cli.main import main; sys.exit(main())",
)

BIG_FILES, BIG_BYTES = 100_000, 1024**3
"""The large image: so many files besides those of the small one, so many bytes in all."""


def main() -> int:
    """Run all measurements; print them, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--quick", action="store_true", help="fewer runs, smaller images: a try")
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 101
    figures: dict[str, Any] = {"machine": _machine(), "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="cmeta-bench-") as name:
        work = Path(name)
        scale = 100 if arguments.quick else 1
        small = _image(work / "small.sif", _small_tree(work / "small"))
        figures["small image (bytes)"] = small.stat().st_size
        big_tree = _grown(work / "small", work / "big", BIG_FILES // scale, BIG_BYTES // scale)
        big = _image(work / "big.sif", big_tree)
        figures["large image (bytes)"] = big.stat().st_size
        figures["large image (files)"] = sum(len(files) for _, _, files in os.walk(big_tree))
        shutil.rmtree(big_tree)
        figures.update(_inspect(small, big, rounds))
        figures.update(_in_process(small, rounds))
        if shutil.which("slurmctld") and not os.geteuid():
            import bench_submit

            closed = _encrypted(work, small)
            figures["submit"] = bench_submit.figures(small, closed, big, work, 2 * rounds)
        figures.update(_ways_into_squashfs(small, work, rounds))
        figures.update(_deep(work))
        figures.update(_nodes(work, rounds))
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def _machine() -> str:
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} CPUs, Python {platform.python_version()}"


def _small_tree(tree: Path) -> Path:
    """An image as users build it: a system, an MPI library, an application of their own."""
    source = images.PACKAGES / "amd64"
    if not source.is_dir():
        raise SystemExit(f"bench.py: no {source}: run `make bench`, which makes the root first")
    triplet = "usr/lib/x86_64-linux-gnu"
    for directory in ("bin", "lib64", f"{triplet}"):
        (tree / directory if directory == triplet else tree / "usr" / directory).mkdir(
            parents=True, exist_ok=True
        )
    for name in ("bin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    wanted = ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libmpi.so.40*", "libucp.so.0*")
    for pattern in wanted:
        for path in (source / triplet).glob(pattern):
            shutil.copy2(path, tree / triplet / path.name, follow_symlinks=False)
    shutil.copy2(source / "usr/lib64/ld-linux-x86-64.so.2", tree / "usr/lib64")
    programs = ("dash", "mpirun.openmpi", "bash", "python3.*-minimal", "python3.1?")
    for path in (p for name in programs for p in (source / "usr/bin").glob(name)):
        shutil.copy2(path, tree / "usr/bin" / path.name)
    (tree / "usr/bin/sh").symlink_to("dash")
    shutil.copytree(source / "etc", tree / "etc", symlinks=True)
    (tree / "usr/local/bin").mkdir(parents=True)
    _compile(tree / "usr/local/bin/app", "-march=x86-64-v3")
    return tree


def _compile(target: Path, *options: str) -> None:
    code = "#include <stdio.h>\nint main(void){double s=0;for(int i=0;i<99;i++)s+=i*0.5;"
    code += 'printf("%f\\n",s);return 0;}\n'
    subprocess.run(
        ["gcc", "-O3", *options, "-x", "c", "-o", str(target), "-"],
        input=code,
        text=True,
        check=True,
    )


def _grown(small: Path, big: Path, files: int, size: int) -> Path:
    """The same image with a data set in it: `files` files that no packer makes smaller."""
    shutil.copytree(small, big, symlinks=True)
    chance = random.Random(1)  # noqa: S311
    block = chance.randbytes(1 << 20)
    each = size // files
    for number in range(files):
        if number % 1000 == 0:
            directory = big / f"opt/data/{number // 1000:04}"
            directory.mkdir(parents=True)
        start = chance.randrange(len(block) - each)
        (directory / f"{number:06}.dat").write_bytes(
            number.to_bytes(4, "big") + block[start:][: each - 4]
        )
    return big


def _image(path: Path, tree: Path, *options: str) -> Path:
    return images.from_tree(path, tree, "amd64", {"org.opencontainers.image.title": "x"}, options)


def _encrypted(work: Path, image: Path) -> Path:
    """Return the same image with a partition that is not looked into: header and metadata only."""
    path = work / "encrypted.sif"
    data = bytearray(image.read_bytes())
    squashfs, system, amd64 = 1, 2, b"02\0"
    partition = struct.pack("<ii", squashfs, system) + amd64
    place = data.index(partition)  # the descriptor's own part (pkg/sif/sif.go, partition)
    data[place : place + 4] = struct.pack("<i", 5)  # FsEncryptedSquashfs
    path.write_bytes(data)
    return path


def _inspect(small: Path, big: Path, rounds: int) -> dict[str, Any]:
    large, little, ratio = pairs(
        command(*CMETA, "inspect", big), command(*CMETA, "inspect", small), rounds
    )
    return {
        "cmeta inspect, large image (ms)": round(large, 2),
        "cmeta inspect, small image (ms)": round(little, 2),
        "cmeta inspect, large : small": round(ratio, 3),
    }


def _in_process(image: Path, rounds: int) -> dict[str, Any]:
    """Facts from header, metadata objects and ELF files, interpreter and imports apart."""
    script = f"""
import sys, time, statistics; sys.path.insert(0, {str(PROJECT)!r})
from slurm_cmeta import config, evidence
from slurm_cmeta.submission import read_image
spent = []
for _ in range({rounds + 1}):
    begun = time.perf_counter()
    report = read_image({str(image)!r}, config.defaults())
    spent.append((time.perf_counter() - begun) * 1000)
print(spent[0], statistics.median(spent[1:]), len(report.requirements))
"""
    done = subprocess.run(
        [PYTHON, "-I", "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    return {
        "in process, first image (ms)": round(float(done[0]), 2),
        "in process, warm (ms)": round(float(done[1]), 2),
        "in process, requirements found": int(done[2]),
    }


def _ways_into_squashfs(image: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Whole processes that look up 20 paths in an image's squashfs and read four files whole."""
    from slurm_cmeta.image import open_image, sif

    with open_image(str(image)) as opened:
        assert isinstance(opened.content, sif.Sif)
        stored = opened.content.partition.stored
    offset, size = stored.offset, stored.size
    squashfs = work / "only.squashfs"
    squashfs.write_bytes(image.read_bytes()[offset : offset + size])
    real = ["/usr/bin/dash", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/etc/ld.so.cache"]
    real.append("/usr/local/bin/app")
    absent = [f"/opt/none{number}" for number in range(16)]
    libsquashfs = f"""
import sys; sys.path.insert(0, {str(PROJECT)!r})
from slurm_cmeta.image.content import Warnings
from slurm_cmeta.image.filetree import quick_budget
from slurm_cmeta.image.reader import Reader
from slurm_cmeta.image.squashfs import SquashfsTree
tree = SquashfsTree(Reader({str(image)!r}), {offset}, {size}, "x", Warnings(), quick_budget())
assert sum(len(tree.read(tree.find(path))) for path in {real + absent!r}) > 1000000
"""
    others = {
        "unsquashfs -cat, a call a path": f"""
import subprocess
def read(path):
    words = ["unsquashfs", "-o", "{offset}", "-cat", {str(image)!r}, path]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
assert sum(len(read(path)) for path in {real + absent!r}) > 1000000
""",
        "dissect.squashfs": f"""
from dissect.squashfs import SquashFS
fs = SquashFS(open({str(squashfs)!r}, "rb"))
def read(path):
    try:
        return fs.get(path).open().read()
    except Exception:
        return b""
assert sum(len(read(path)) for path in {real + absent!r}) > 1000000
""",
        "PySquashfsImage": f"""
from PySquashfsImage import SquashFsImage
fs = SquashFsImage.from_file({str(squashfs)!r})
def read(path):
    found = fs.select(path)
    return found.read_bytes() if found is not None else b""
assert sum(len(read(path)) for path in {real + absent!r}) > 1000000
""",
    }
    found: dict[str, Any] = {}
    for name, code in others.items():
        if subprocess.run([sys.executable, "-c", code], capture_output=True).returncode:
            found[f"{name} : libsquashfs"] = "not installed here (pip)"
            continue
        theirs, ours, ratio = pairs(
            command(sys.executable, "-c", code),
            command(sys.executable, "-c", libsquashfs),
            rounds,
        )
        found["20 look-ups, libsquashfs by cffi (ms)"] = round(ours, 2)
        found[f"20 look-ups, {name} (ms)"] = round(theirs, 2)
        found[f"{name} : libsquashfs"] = round(ratio, 2)
    return found


def _deep(work: Path) -> dict[str, Any]:
    """Machine code that `--deep` examines in a second: a plain program, and two that dispatch."""
    found: dict[str, Any] = {}
    source = images.PACKAGES / "amd64"
    for name, pattern in (
        ("python3", "usr/bin/python3.*"),
        ("static busybox", "usr/bin/busybox"),
        ("libopenblas", "usr/lib/x86_64-linux-gnu/openblas-pthread/libopenblas*.so"),
    ):
        path = next(iter(sorted(source.glob(pattern))), None)
        if path is None:
            continue
        tree = work / f"deep-{name}"
        (tree / "opt/app/bin").mkdir(parents=True)
        shutil.copy2(path.resolve(), tree / "opt/app/bin" / path.name)
        image = _image(work / f"{name}.sif", tree)
        script = f"""
import sys, time; sys.path.insert(0, {str(PROJECT)!r})
from slurm_cmeta import config
from slurm_cmeta.image.filetree import deep_budget
from slurm_cmeta.submission import read_image
begun = time.perf_counter()
report = read_image({str(image)!r}, config.defaults(), deep_budget())
spent = time.perf_counter() - begun
examined = sum(int(f.value) for f in report.facts if f.key == "isa.examined")
print(examined, spent)
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        if done.returncode == 0:
            examined, spent = map(float, done.stdout.split())
            found[f"--deep, {name} (MB of machine code)"] = round(examined / 1e6, 2)
            found[f"--deep, {name} (MB a second)"] = round(examined / 1e6 / spent, 2)
        else:
            found[f"--deep, {name} (MB a second)"] = done.stderr.strip().splitlines()[-1]
    return found


NODES, CLASSES = 10_000, 200


def _nodes(work: Path, rounds: int) -> dict[str, Any]:
    """`cmeta nodes` on a large cluster, whole processes, beside one that does nothing."""
    names = [f"n{number:05}" for number in range(NODES)]
    levels = "x86_64,x86_64_v2,x86_64_v3,nehalem,haswell,broadwell,skylake,glibc=2.36,page=4k"
    each = NODES // CLASSES
    partitions = "PartitionName=all Nodes=ALL Default=YES\n" + "".join(
        f"PartitionName=p{i} Nodes=n[{i * 1000:05}-{i * 1000 + 1499:05}]\n" for i in range(8)
    )
    ways = {
        "a line a class": "".join(
            f"NodeName=n[{i * each:05}-{i * each + each - 1:05}] "
            f"RealMemory=256000 Features={levels},c{i}\n"
            for i in range(CLASSES)
        ),
        "a line a node": "".join(
            f"NodeName={name} RealMemory=256000 Features={levels},c{number // each}\n"
            for number, name in enumerate(names)
        ),
        "a line a node, classes mixed": "".join(
            f"NodeName={name} RealMemory=256000 Features={levels},c{number % CLASSES}\n"
            for number, name in enumerate(names)
        ),
    }
    idle = command(*CMETA, "--version")
    found: dict[str, Any] = {}
    for name, lines in ways.items():
        conf = work / "nodes.conf"
        conf.write_text(f"ClusterName=bench\n{lines}{partitions}")
        spent, _, ratio = pairs(command(*CMETA, "nodes", "--slurm-conf", conf), idle, rounds)
        found[f"cmeta nodes, 10,000 nodes, {name} (ms)"] = round(spent, 1)
        found[f"cmeta nodes, 10,000 nodes, {name} : cmeta --version"] = round(ratio, 2)
    found.update(_live_nodes(work, levels, idle, rounds))
    return found


def _live_nodes(work: Path, levels: str, idle: Callable[[], None], rounds: int) -> dict[str, Any]:
    """The same by a real slurmctld, whose nodes are all down."""
    if not shutil.which("slurmctld") or os.geteuid():
        return {"cmeta nodes --live": "needs slurmctld, and root"}
    from cluster import Cluster, Node

    each = NODES // CLASSES
    nodes = [
        Node(f"n[{i * each:05}-{i * each + each - 1:05}]", f"{levels},c{i}", running=False)
        for i in range(CLASSES)
    ]
    snapshot = work / "nodes.json"
    with (
        tempfile.TemporaryDirectory(prefix="cmeta-", dir="/run") as name,
        Cluster(Path(name), nodes) as cluster,
    ):
        os.environ.update(cluster.env)
        live, sinfo, ratio = pairs(
            command(*CMETA, "nodes", "--live", "--snapshot", snapshot),
            command("sinfo", "--all", "--noheader", "--exact", "--format=%N|%R|%T|%f"),
            rounds,
        )
        read, _, _ = pairs(command(*CMETA, "nodes", "--from-snapshot", snapshot), idle, rounds)
    return {
        "cmeta nodes --live, 10,000 nodes, snapshot written (ms)": round(live, 1),
        "sinfo alone (ms)": round(sinfo, 1),
        "cmeta nodes --live : sinfo alone": round(ratio, 2),
        "cmeta nodes --from-snapshot, 10,000 nodes (ms)": round(read, 1),
        "the snapshot (bytes)": snapshot.stat().st_size,
    }


if __name__ == "__main__":
    sys.exit(main())
