"""What clients of registries choose for a host, and what `cmeta pull` does: a table.

    python3 tests/tools/root.py run -- python3 tests/tools/choices.py --markdown

Real tools pull from a real registry on this machine, told that they are on a host of each
architecture: `--override-arch`, `--arch`, `--platform`. That is all that they would find out
themselves: none of them detects the level of an amd64 host, and of arm64 skopeo and podman know
`v8`. What they have chosen is what they ask the registry for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))

from registry import Running, registry  # noqa: E402
from trouble import ToolError  # noqa: E402
from variants import Made, digests, layout  # noqa: E402

from slurm_cmeta import vocabulary  # noqa: E402

TARGETS = {
    "amd64": (
        *("x86_64_v2", "x86_64_v3", "x86_64_v4", "nehalem", "haswell", "skylake_avx512"),
        *("icelake", "sapphirerapids", "zen2", "zen3", "zen4", "zen5"),
    ),
    "arm64": ("neoverse_n1", "neoverse_v1", "neoverse_v2"),
    "ppc64le": ("power9le",),
    "riscv64": ("u74mc",),
}
"""archspec's names of the hosts, by OCI's of their architectures."""

LABEL = "io.archspec.cpu.target"


class Entry(NamedTuple):
    """One image of an index, and what it is really built for."""

    made: Made
    truth: str
    """archspec's name of the target."""


def built(architecture: str, variant: str = "", truth: str = "") -> Entry:
    """Return an image whose platform says all."""
    family = vocabulary.architecture(architecture) or architecture
    level = vocabulary.oci_variant(architecture, variant) if variant else family
    return Entry(Made(architecture, variant), truth or str(level))


def labelled(architecture: str, target: str, *, annotation: bool = False) -> Entry:
    """Return an image of which a label, or an annotation, says for which CPU it is."""
    said = {LABEL: target}
    made = Made(architecture, annotations=said) if annotation else Made(architecture, labels=said)
    return Entry(made, target)


OTHERS = (built("arm64", "v8"), built("ppc64le"), built("riscv64"))

INDEXES: dict[str, tuple[Entry, ...]] = {
    "one image for each architecture": (built("amd64"), *OTHERS),
    "the first entry is not the best": (
        *(built("amd64"), labelled("amd64", "x86_64_v3"), labelled("amd64", "zen3")),
        *(labelled("amd64", "icelake"), built("arm64", "v8"), labelled("arm64", "neoverse_n1")),
        *(labelled("arm64", "neoverse_v1"), built("ppc64le"), labelled("ppc64le", "power9le")),
        built("riscv64"),
    ),
    "levels, ascending": (
        *(built("amd64"), built("amd64", "v2"), built("amd64", "v3"), built("amd64", "v4")),
        *OTHERS,
    ),
    "levels, descending": (
        *(built("amd64", "v4"), built("amd64", "v3"), built("amd64", "v2"), built("amd64")),
        *OTHERS,
    ),
    "no plain amd64": (
        *(built("amd64", "v2"), built("amd64", "v3"), built("amd64", "v4")),
        built("arm64", "v8.2"),
    ),
    "annotations only": (
        *(labelled("amd64", target, annotation=True) for target in ("zen4", "haswell", "x86_64")),
        *(labelled("arm64", target, annotation=True) for target in ("neoverse_v2", "aarch64")),
        *(labelled("ppc64le", target, annotation=True) for target in ("power9le", "ppc64le")),
        built("riscv64"),
    ),
    "labels and platforms that lie": (
        Entry(Made("arm64", listed="amd64", labels={"n": "a"}), "aarch64"),
        Entry(Made("amd64", listed="arm64", labels={"n": "b"}), "x86_64"),
        Entry(Made("arm64", "v8", labels={LABEL: "zen4"}), "aarch64"),
        Entry(Made("amd64", "v3", labels={LABEL: "neoverse_v2"}), "x86_64_v3"),
        Entry(Made("ppc64le", labels={LABEL: "zen2"}), "ppc64le"),
        built("riscv64"),
    ),
    "several architectures": (
        *(built("riscv64"), built("ppc64le", "power9"), built("arm64", "v8.2")),
        *(built("ppc64le"), built("amd64", "v3"), built("arm64", "v8"), built("amd64")),
    ),
}

RIGHT, WORSE, WRONG, REFUSED = "right", "runs, not the best", "does not run", "refused"
OUTCOMES = (RIGHT, WORSE, WRONG, REFUSED)

Chooser = Callable[[str, str, Path], int | None]
"""Reference, OCI architecture, empty directory -> number of the entry."""


def runs(entry: Entry, target: str) -> bool:
    """Tell whether such a host can run the image: by the order of archspec's targets."""
    host, needed = vocabulary.cpu(target), vocabulary.cpu(entry.truth)
    assert host is not None, target
    assert needed is not None, entry
    return host.runs(needed)


def right(entries: Sequence[Entry], target: str) -> list[int]:
    """Return the entries that are right: they run, and no other one that runs is more specific.

    Empty where none runs: then refusing is right.
    """
    fitting = [n for n, entry in enumerate(entries) if runs(entry, target)]
    return [
        n
        for n in fitting
        if not any(
            entries[n].truth != entries[other].truth and runs(entries[n], entries[other].truth)
            for other in fitting
        )
    ]


def outcome(entries: Sequence[Entry], target: str, chosen: int | None) -> str:
    """Return what became of a choice."""
    best = right(entries, target)
    if chosen is None:
        return REFUSED if best else RIGHT
    if chosen in best:
        return RIGHT
    return WORSE if runs(entries[chosen], target) else WRONG


def tools(running: Running, configurations: Callable[[], Mapping[str, int]]) -> dict[str, Chooser]:
    """Return how each tool chooses. Raises ToolError where one is missing."""
    missing = [name for name in ("skopeo", "apptainer", "podman") if not shutil.which(name)]
    if missing:
        raise ToolError(f"{', '.join(missing)}: not installed")

    def asked_for(words: Sequence[str], place: Path) -> int | None:
        """Run a tool; return whose configuration it has asked the registry for."""
        begin = running.log.stat().st_size
        home = {"HOME": str(place), "XDG_RUNTIME_DIR": str(place)}
        subprocess.run(words, cwd=place, env={**os.environ, **home}, capture_output=True)
        with running.log.open(errors="replace") as log:
            log.seek(begin)
            said = log.read()
        found = [n for digest, n in configurations().items() if f"/blobs/{digest}" in said]
        assert len(found) < 2, words
        return found[0] if found else None

    def skopeo(reference: str, architecture: str, place: Path) -> int | None:
        variant = ["--override-variant", "v8"] if architecture == "arm64" else []
        options = ["--override-arch", architecture, *variant]
        copy = ["copy", "--src-tls-verify=false", reference, f"oci:{place}/copy"]
        return asked_for(["skopeo", *options, *copy], place)

    def apptainer(reference: str, architecture: str, place: Path) -> int | None:
        options = ["--no-https", "--disable-cache", "--arch", architecture]
        return asked_for(["apptainer", "pull", *options, "image.sif", reference], place)

    def podman(reference: str, architecture: str, place: Path) -> int | None:
        platform = f"linux/{architecture}{'/v8' if architecture == 'arm64' else ''}"
        where = ["--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs"]
        pull = ["pull", "--tls-verify=false", "--platform", platform, reference]
        return asked_for(["podman", *where, *pull], place)

    return {"skopeo": skopeo, "apptainer": apptainer, "podman": podman}


def cmeta(reference: str, target: str) -> str:
    """Return the digest that `cmeta pull` chooses, empty where it refuses."""
    command = [sys.executable, "-m", "slurm_cmeta.cli.main", "pull", "--print-digest"]
    done = subprocess.run(
        [*command, "--for", target, reference],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise ToolError(done.stderr)
    return done.stdout.strip()


Choices = dict[str, dict[str, dict[str, int | None]]]
"""Index -> target -> tool -> number of the entry, None where it refuses."""

OURS = "cmeta pull"


def choose(place: Path) -> Choices:
    """Let all tools choose. Raises ToolError where one is missing."""
    found: Choices = {}
    place.mkdir(exist_ok=True)
    with registry(place / "registry") as running:
        known: dict[str, int] = {}
        choosers = tools(running, lambda: known)
        for number, (name, entries) in enumerate(INDEXES.items()):
            made = layout(place / f"layout-{number}", [entry.made for entry in entries])
            running.push(made, f"org/app:{number}")
            digest = {pair[0]: n for n, pair in enumerate(digests(made))}
            known.clear()
            known |= {pair[1]: n for n, pair in enumerate(digests(made))}
            reference = f"docker://{running.address}/org/app:{number}"
            for architecture, targets in TARGETS.items():
                by_tool = {}
                for tool, chooser in choosers.items():
                    with tempfile.TemporaryDirectory(dir=place) as empty:
                        by_tool[tool] = chooser(reference, architecture, Path(empty))
                for target in targets:
                    ours = digest.get(cmeta(reference, target))
                    found.setdefault(name, {})[target] = {**by_tool, OURS: ours}
    return found


def counts(choices: Choices) -> dict[str, dict[str, int]]:
    """Return tool -> outcome -> how often."""
    found: dict[str, dict[str, int]] = {}
    for name, by_target in choices.items():
        for target, by_tool in by_target.items():
            for tool, chosen in by_tool.items():
                own = found.setdefault(tool, dict.fromkeys(OUTCOMES, 0))
                own[outcome(INDEXES[name], target, chosen)] += 1
    return found


def named(entries: Sequence[Entry], number: int) -> str:
    """Return an entry as a table shows it: `2: amd64/v3`, with the target that it is built for."""
    made, truth = entries[number].made, entries[number].truth
    platform = "/".join(filter(None, (made.listed or made.architecture, made.variant)))
    plain = truth == (vocabulary.architecture(made.listed or made.architecture))
    stated = vocabulary.oci_variant(made.architecture, made.variant) == truth
    return f"{number + 1}: {platform}" + ("" if plain or stated else f" ({truth})")


def versions() -> str:
    """Return the tools' versions, as the page states them."""
    found = []
    for tool in ("skopeo", "apptainer", "podman"):
        said = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
        found.append(f"{tool} {said.split()[-1]}")
    return ", ".join(found)


def markdown(choices: Choices) -> str:
    """Return the page docs/pull-choices.md."""
    lines = [
        "# What is chosen: skopeo, apptainer, podman and cmeta pull",
        "",
        "Made by `tests/tools/choices.py --markdown`, which says how; do not edit. Each tool has",
        "pulled each index from a real registry, told that its host has the architecture of the",
        "target. The right choice runs on the target, and is the most specific one that does, by",
        "archspec's order; where none runs, to refuse is right.",
        "",
        f"Tools: {versions()}.",
        "",
        f"| tool | {' | '.join(OUTCOMES)} |",
        f"|---|{'---|' * len(OUTCOMES)}",
    ]
    for tool, of in counts(choices).items():
        lines.append(f"| {tool} | {' | '.join(str(of[o]) for o in OUTCOMES)} |")
    for name, by_target in choices.items():
        entries = INDEXES[name]
        shown = ", ".join(f"`{named(entries, n)}`" for n in range(len(entries)))
        columns = list(next(iter(by_target.values())))
        lines += ["", f"## Index: {name}", "", f"Entries: {shown}.", ""]
        lines += [f"| target | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for target, by_tool in by_target.items():
            cells = [_cell(entries, target, chosen) for chosen in by_tool.values()]
            lines.append(f"| {target} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(entries: Sequence[Entry], target: str, chosen: int | None) -> str:
    what = outcome(entries, target, chosen)
    if chosen is None:
        return "refused, right" if what == RIGHT else "**refused**"
    words = named(entries, chosen)
    return words if what == RIGHT else f"{words}, **{what}**"


def main() -> int:
    """Print the counts, or the whole page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--markdown", action="store_true", help="print docs/pull-choices.md")
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as place:
            choices = choose(Path(place))
    except ToolError as problem:
        print(f"choices: {problem}", file=sys.stderr)
        return 1
    if args.markdown:
        print(markdown(choices), end="")
        return 0
    for tool, of in counts(choices).items():
        print(tool.ljust(12), ", ".join(f"{what} {number}" for what, number in of.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
