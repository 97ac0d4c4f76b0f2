"""What the plugin, the matcher and the controller's filter cost a submission; part of bench.py.

Each row is a ratio of two whole commands run by turns on one real cluster whose nodes are all down,
or, for slurmctld's own time, of what sdiag counts on two clusters that differ in their filter only.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster import Cluster, Node
from pairs import command, pairs
from product import NODES, CountedMatcher, Product, install

SETTLED = 2.5
"""Seconds after which what was written last may be kept (slurm_cmeta/kept/sources.py)."""

FILTERED = 2000
"""Submissions to each controller."""

BURST, PROCESSES = 1000, 8

BATCH = 50
"""Submissions after which the queue is emptied, so that its length favours nobody."""

EMPTY_FILTER = """\
function slurm_job_submit(job_desc, part_list, submit_uid) return slurm.SUCCESS end
function slurm_job_modify(job_desc, job_rec, part_list, modify_uid) return slurm.SUCCESS end
"""


def figures(image: Path, headers_only: Path, big: Path, work: Path, rounds: int) -> dict[str, Any]:
    """Return all rows: ratio, what it is to be at most, and the medians in ms."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cmeta-", dir="/run") as name:
        place = Path(name)
        product = install(place / "product")
        found.update(_matcher(product, image, headers_only, big, work, rounds))
        found.update(_sbatch(place, product, image, rounds))
        found.update(_controller(place, product, image, FILTERED if rounds > 50 else 100))
    return found


def row(ours: float, theirs: float, ratio: float, most: float) -> dict[str, float]:
    """Return one row of the table."""
    return {
        "ratio": round(ratio, 3),
        "at most": most,
        "ms": round(ours, 2),
        "against (ms)": round(theirs, 2),
    }


# --- the matcher ----------------------------------------------------------------------------------


def _matcher(
    product: Product, image: Path, headers_only: Path, big: Path, work: Path, rounds: int
) -> dict[str, Any]:
    small = _slurm_conf(work / "four.conf", 4, 4)
    large = _slurm_conf(work / "large.conf", 10_000, 200)
    time.sleep(SETTLED)
    kept = work / "kept/slurm-cmeta"
    found: dict[str, Any] = {}

    def decide(path: Path, conf: Path, *words: str) -> list[str]:
        return [str(product.matcher), "--image", str(path), "--slurm-conf", str(conf), *words]

    def against_apptainer(path: Path, most: float) -> dict[str, float]:
        theirs = command("apptainer", "inspect", "--labels", path)
        ours = command(*decide(path, small, "--cache", f"{kept}/labels"))  # as the plugin has it
        return row(*pairs(ours, theirs, rounds), most)

    try:
        found["first decision, header and metadata : apptainer inspect --labels"] = (
            against_apptainer(headers_only, 1.5)
        )
        found["first decision, content read : apptainer inspect --labels"] = against_apptainer(
            image, 3.0
        )
    except FileNotFoundError:
        found["first decision : apptainer inspect --labels"] = "no Apptainer here"
    cached = ("--cache", f"{kept}/size")
    ours, theirs = command(*decide(big, small, *cached)), command(*decide(image, small, *cached))
    found["first decision, large image : small image"] = row(*pairs(ours, theirs, rounds), 1.2)
    lines = _line_a_node(work / "lines.conf", large)
    time.sleep(SETTLED)
    for name, words in (("known", ["--cache", f"{kept}/nodes"]), ("new", [])):
        four = command(*decide(image, small, *words))
        for form, conf in (("a line a class", large), ("a line a node", lines)):
            ours = command(*decide(image, conf, *words))
            title = (
                f"first decision, 10,000 nodes in 200 classes, {form}, slurm.conf {name} : 4 nodes"
            )
            found[title] = row(*pairs(ours, four, rounds), 1.5)
    peak = max(
        _peak(decide(path, conf)) for path in (image, headers_only, big) for conf in (small, large)
    )
    found["peak memory of the matcher (MB)"] = {"value": peak, "at most": 32}
    found["imports of cmeta-decide that take longest (us)"] = _imports(decide(image, small))
    return found


def _slurm_conf(path: Path, nodes: int, classes: int) -> Path:
    levels = "x86_64,x86_64_v2,x86_64_v3,nehalem,haswell,broadwell,skylake,glibc=2.36,page=4k"
    each = nodes // classes
    lines = "".join(
        f"NodeName=n[{i * each:05}-{i * each + each - 1:05}] RealMemory=256000 "
        f"Features={levels if i % 3 else 'x86_64,x86_64_v2'},c{i}\n"
        for i in range(classes)
    )
    path.write_text(f"ClusterName=bench\n{lines}PartitionName=all Nodes=ALL Default=YES\n")
    return path


def _line_a_node(path: Path, conf: Path) -> Path:
    """Write the same nodes with a line for each, as sites do that generate the file."""
    lines = []
    for line in conf.read_text().splitlines():
        found = re.match(r"NodeName=n\[(\d+)-(\d+)\](.*)", line)
        if found is None:
            lines.append(line)
            continue
        first, last = int(found[1]), int(found[2])
        lines += [f"NodeName=n{number:05d}{found[3]}" for number in range(first, last + 1)]
    path.write_text("\n".join(lines) + "\n")
    return path


def _peak(argv: list[str]) -> float:
    """Return the largest resident size of a command, in MB.

    A small process starts it: what a process was before exec() counts as its own size.
    """
    launcher = """
import os, sys
null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=null)
print(os.wait4(pid, 0)[2].ru_maxrss)
"""
    done = subprocess.run(
        [sys.executable, "-IS", "-c", launcher, *argv], capture_output=True, text=True, check=True
    )
    return round(int(done.stdout) / 1024, 1)


def _imports(argv: list[str]) -> dict[str, int]:
    """Return the ten modules whose import takes longest, by themselves."""
    first = Path(argv[0]).read_text().splitlines()[0]
    python, options = first[2:].split()
    told = subprocess.run(
        [python, options, "-X", "importtime", *argv], capture_output=True, text=True
    ).stderr
    lines = re.findall(r"^import time: +(\d+) \| +\d+ \| +(\S+)$", told, re.MULTILINE)
    longest = sorted(((int(us), name) for us, name in lines), reverse=True)[:10]
    return {name: us for us, name in longest} | {"all": sum(int(us) for us, _ in lines)}


# --- sbatch ---------------------------------------------------------------------------------------


def _sbatch(place: Path, product: Product, image: Path, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with _cluster(place / "c", plugstack=[product.plugstack_line()]) as cluster:
        plain = _without_plugin(cluster)
        script = place / "job.sh"
        script.write_text("#!/bin/sh\nexit 0\n")
        words = ["sbatch", "--hold", "--parsable"]
        env = {"XDG_CACHE_HOME": str(place / "cache")}
        time.sleep(SETTLED)

        def submit(*more: str, variables: Mapping[str, str] = env) -> Any:
            return command(*words, *more, str(script), env=cluster.env | dict(variables))

        def by_turns(first: Any, most: float) -> dict[str, float]:
            bare = submit(variables=env | {"SLURM_CONF": str(plain)})
            return row(*pairs(first, bare, rounds, every=BATCH, then=lambda: _empty(cluster)), most)

        found["sbatch without --container, with the plugin : without"] = by_turns(submit(), 1.03)
        container = f"--container={image}"
        submit(container)()  # the decision is kept from here on
        found["sbatch --container, decision cached : without the plugin"] = by_turns(
            submit(container), 1.25
        )
        nowhere = {"XDG_CACHE_HOME": "", "HOME": ""}
        found["sbatch --container, nothing cached : without the plugin"] = by_turns(
            submit(container, variables=nowhere), float("inf")
        )
        _empty(cluster)
        counted = CountedMatcher(product, place)
        line = product.plugstack_line(f"matcher={counted.program}")
        cluster.plugstack_path.write_text(line + "\n")
        found["burst"] = _burst(cluster, container, script, place / "burst", counted, rounds)
    return found


def _burst(
    cluster: Cluster, container: str, script: Path, home: Path, counted: CountedMatcher, rounds: int
) -> dict[str, Any]:
    """Submit from several processes at once, with an empty cache."""
    count = BURST if rounds > 50 else 80
    loop = f"for i in $(seq {count // PROCESSES}); do sbatch --hold --parsable {container} {script}"
    loop += " 2>/dev/null || exit 1; done"
    env = {"XDG_CACHE_HOME": str(home)}
    begun = time.monotonic()
    with ThreadPoolExecutor(PROCESSES) as pool:
        done = list(
            pool.map(
                lambda _: cluster.run(["sh", "-c", loop], env=env, timeout=600), range(PROCESSES)
            )
        )
    spent = time.monotonic() - begun
    jobs = {job for one in done for job in one.stdout.split()}
    constraints = set(cluster.run(["squeue", "-h", "-o", "%f"]).stdout.split())
    left = [path.name for path in (home / "slurm-cmeta").iterdir()]
    return {
        "submissions": count,
        "accepted": len(jobs),
        "seconds": round(spent, 1),
        "matchers started": counted.runs,
        "different constraints": len(constraints),
        "files left half-written": sum(name.startswith(".") for name in left),
    }


def _without_plugin(cluster: Cluster) -> Path:
    """Return a slurm.conf of the same cluster for clients that load no SPANK plugin."""
    directory = cluster.layout.directory / "plain"
    directory.mkdir()
    nothing = directory / "plugstack.conf"
    nothing.write_text("")
    text = cluster.conf_path.read_text().replace(str(cluster.plugstack_path), str(nothing))
    if "PlugStackConfig" not in text:
        text += f"PlugStackConfig={nothing}\n"
    path = directory / "slurm.conf"
    path.write_text(text)
    return path


@contextmanager
def _cluster(directory: Path, **options: Any) -> Iterator[Cluster]:
    nodes = [Node(names, features, running=False) for names, features in NODES.items()]
    with Cluster(directory, nodes, **options) as cluster:
        yield cluster


def _empty(cluster: Cluster) -> None:
    cluster.run(["scancel", "--state=PENDING"])


# --- slurmctld ------------------------------------------------------------------------------------


def _controller(place: Path, product: Product, image: Path, count: int) -> dict[str, Any]:
    """Return slurmctld's own time for a submission, with and without the filter."""
    ours = product.job_submit()
    filters = {
        "none": None,
        "empty": EMPTY_FILTER,
        "cmeta": ours,
        "quiet": ours.replace("cmeta.ensure, job_desc", 'cmeta.ensure, job_desc, {log = "none"}'),
    }
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        clusters = {
            name: stack.enter_context(
                _cluster(place / name[0], job_submit=lua, plugstack=[product.plugstack_line()])
            )
            for name, lua in filters.items()
        }
        time.sleep(SETTLED)
        for kind, words in (("plain jobs", ""), ("jobs with an image", f"--container={image}")):
            spent = _slurmctld_times(clusters, words, count)
            for which, log in (("cmeta", ""), ("quiet", ", no log")):
                for other in ("none", "empty"):
                    name = f"slurmctld per submission, {kind}, filter on{log} : {other}"
                    mine, theirs = spent[which] / 1000, spent[other] / 1000
                    found[name] = row(mine, theirs, mine / theirs, 1.05)
    return found


def _slurmctld_times(clusters: Mapping[str, Cluster], words: str, count: int) -> dict[str, float]:
    """Return for each controller the microseconds that sdiag has for a submission, on average."""
    loop = f"for i in $(seq {BATCH}); do sbatch --hold --wrap=true {words}; done"
    for cluster in clusters.values():
        cluster.run(["sbatch", "--hold", "--wrap=true", *words.split()])
        cluster.run(["sdiag", "--reset"])
    for _ in range(max(1, count // BATCH)):
        for cluster in clusters.values():
            cluster.run(["sh", "-c", loop], timeout=300)
            _empty(cluster)
    return {name: _average(cluster) for name, cluster in clusters.items()}


def _average(cluster: Cluster) -> float:
    told = cluster.run(["sdiag"]).stdout
    match = re.search(r"REQUEST_SUBMIT_BATCH_JOB .*?ave_time:(\d+)", told)
    if match is None:
        raise SystemExit("bench: sdiag tells no time of REQUEST_SUBMIT_BATCH_JOB")
    return float(match[1])
