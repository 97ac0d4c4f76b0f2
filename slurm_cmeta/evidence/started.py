"""What an image starts by itself: its entry point, or the commands of its runscript.

No shell is run. What cannot be understood, such as an argument that is a variable, starts nothing.
"""

from __future__ import annotations

from slurm_cmeta.evidence.places import DISTRIBUTION_DIRECTORIES
from slurm_cmeta.image import shell
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from slurm_cmeta.image.content import Run
    from slurm_cmeta.image.filetree import Entry, FileTree

MAX_STARTED = 12
"""Files that are started; real images start one, through up to three scripts."""

MAX_DEPTH = 3
"""Scripts that start each other."""

LAUNCHERS = frozenset(
    (
        *("exec", "env", "nice", "time", "command", "nohup", "stdbuf", "timeout", "setsid"),
        *("tini", "dumb-init", "catatonit", "gosu", "su-exec", "numactl", "taskset", "setarch"),
        *("mpirun", "mpiexec", "srun", "prun", "orterun", "sh", "bash", "dash", "ash"),
    )
)
"""Programs that start the one in their arguments."""

_SHELLS = frozenset(("sh", "bash", "dash", "ash", "ksh", "zsh"))
_BREAKS = ("&&", "||", ";", "|", "&")


class Start(NamedTuple):
    """A file that is started."""

    entry: Entry
    surely: bool
    interpreter: bool
    """Whether it is the distribution's interpreter of a script, and not the image's own program."""


class Starts:
    """Finds what an image starts. `environment` is the image's, `tree` its files."""

    def __init__(self, tree: FileTree, environment: Mapping[str, str]) -> None:
        self._tree = tree
        self._environment = environment
        self._left = MAX_STARTED

    def of(self, run: Run) -> Iterator[Start]:
        """Yield what `run` starts: the words of an OCI image, else the runscript's commands."""
        words = run.words or _oci_words(run.script)
        if words:
            yield from self._command(words, True, 0, "/", explicit=True)
        else:
            yield from self._script(run.script, True, 0)

    def find(self, word: str, directory: str = "/") -> Entry | None:
        """Return the file that a shell in `directory` would start for `word`."""
        if "/" in word:
            return self._file(word if word.startswith("/") else f"{directory}/{word}")
        for place in self._environment.get("PATH", shell.DEFAULT_PATH).split(":")[:16]:
            entry = self._file(f"{place}/{word}") if place.startswith("/") else None
            if entry is not None:
                return entry
        return None

    def _file(self, path: str) -> Entry | None:
        entry = self._tree.find(path)
        return entry if entry is not None and entry.kind == "file" else None

    def _script(self, text: str, surely: bool, depth: int) -> Iterator[Start]:
        directory = "/"
        for line, runs in shell.lines(text):
            for words in _parts(line):
                if words[0] == "cd" and len(words) > 1:
                    target = self._expanded(words[1])
                    directory = target if target and target.startswith("/") else directory
                else:
                    yield from self._command(words, surely and runs, depth, directory)

    def _command(
        self,
        words: Sequence[str],
        surely: bool,
        depth: int,
        directory: str,
        *,
        explicit: bool = False,
    ) -> Iterator[Start]:
        """Yield what one command starts.

        A tool of the distribution tells nothing (`mkdir`), unless the image is `explicit` about it:
        as its entry point, or what its script becomes by exec.
        """
        for word in words[:16]:
            plain = self._expanded(word)
            if plain is None:
                return
            name = plain.rsplit("/", 1)[-1]
            explicit = explicit or name == "exec"
            if not plain or plain[0] in "-<>" or "=" in plain or name.isdecimal():
                continue
            entry = self.find(plain, directory)
            if name in LAUNCHERS and len(words) > 1:
                continue
            if entry is not None and self._left > 0:
                self._left -= 1
                if explicit or not entry.path.startswith(DISTRIBUTION_DIRECTORIES):
                    yield from self._started(entry, surely, depth)
            return

    def _started(self, entry: Entry, surely: bool, depth: int) -> Iterator[Start]:
        head = self._tree.read(entry, 0, 256)
        if not head.startswith(b"#!"):
            yield Start(entry, surely, False)
            return
        line = head[2:].split(b"\n", 1)[0].decode("utf-8", "replace").split()
        names = [w for w in line if not w.endswith("/env") and not w.startswith("-")]
        interpreter = self.find(names[0]) if names else None
        if interpreter is None:
            return
        own = not interpreter.path.startswith(DISTRIBUTION_DIRECTORIES)
        yield Start(interpreter, surely, not own)
        if names[0].rsplit("/", 1)[-1] in _SHELLS and depth < MAX_DEPTH:
            text = self._tree.read(entry, 0, shell.MAX_SCRIPT).decode("utf-8", "replace")
            yield from self._script(text, surely, depth + 1)

    def _expanded(self, word: str) -> str | None:
        """Return a word with the image's own variables in it, None if it has others."""
        plain = word.strip("\"'")
        if "$" not in plain:
            return plain
        for name, value in self._environment.items():
            plain = plain.replace(f"${{{name}}}", value).replace(f"${name}/", f"{value}/")
        return None if "$" in plain or "`" in plain else plain


def _parts(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line as lists of words."""
    part: list[str] = []
    for word in line.replace(";", " ; ").split():
        if word in _BREAKS:
            if part:
                yield part
            part = []
        elif word not in ("then", "else", "do", "if", "!"):
            part.append(word)
    if part:
        yield part


def _oci_words(script: str) -> tuple[str, ...]:
    """Return the entry point that Singularity and Apptainer wrote into the runscript of an image
    from OCI: lines OCI_ENTRYPOINT='"WORD" "WORD"' and OCI_CMD=... (conveyorPacker_oci.go).
    """
    stated = shell.assignments(script, ("OCI_ENTRYPOINT", "OCI_CMD"))
    return tuple(word for value in stated for word in value.replace('"', " ").split())
