"""A tree of files that a test writes down as a dictionary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from slurm_cmeta.image.content import Content, Run, Warnings
from slurm_cmeta.image.filetree import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Budget,
    Entry,
    FileTree,
    deep_budget,
    joined,
    quick_budget,
)


class MemoryTree(FileTree):
    """Paths without a leading slash -> content; text that starts with `->` is a symbolic link."""

    def __init__(self, files: Mapping[str, bytes | str], budget: Budget | None = None) -> None:
        super().__init__(Warnings(), budget or quick_budget(), "the test's tree")
        self._files = {path.strip("/"): content for path, content in files.items()}
        self._above = {""}
        for path in self._files:
            parts = path.split("/")
            self._above.update("/".join(parts[:count]) for count in range(len(parts)))

    def _root(self) -> Entry:
        return Entry("/", DIRECTORY, 0, 0o755, None)

    def _child(self, directory: Entry, name: str) -> Entry | None:
        path = joined(directory, name)
        content = self._files.get(path.strip("/"))
        if content is None:
            known = path.strip("/") in self._above
            return Entry(path, DIRECTORY, 0, 0o755, None) if known else None
        if isinstance(content, str) and content.startswith("->"):
            return Entry(path, SYMLINK, len(content), 0o777, content[2:])
        data = content.encode() if isinstance(content, str) else content
        return Entry(path, FILE, len(data), 0o755, data)

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        start = directory.path.strip("/")
        start = f"{start}/" if start else ""
        names = {
            path[len(start) :].split("/")[0]
            for path in (*self._files, *self._above)
            if path.startswith(start) and path != start.rstrip("/")
        }
        for name in sorted(filter(None, names)):
            entry = self._child(directory, name)
            assert entry is not None
            yield name, entry.kind

    def _target(self, link: Entry) -> str:
        return str(link.handle)

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        data: bytes = file.handle
        return data[offset : offset + size]


class MemoryContent(Content):
    """An image made of such a tree, and of what a test says besides."""

    def __init__(
        self,
        files: Mapping[str, bytes | str],
        *,
        labels: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        words: tuple[str, ...] = (),
        script: str = "",
    ) -> None:
        super().__init__("sandbox", "test image")
        self.files = files
        self._labels = dict(labels or {})
        self._environment = dict(environment or {})
        self._run = Run(script, words)

    def labels(self) -> dict[str, str]:
        return self._labels

    def environment(self) -> dict[str, str]:
        return self._environment

    def run(self) -> Run:
        return self._run

    def open_tree(self, budget: Budget) -> FileTree:
        return MemoryTree(self.files, budget)


class MemoryImage:
    """What the readers of evidence use of an Image."""

    path = "test"
    format = "sandbox"

    def __init__(self, content: MemoryContent, *, deep: bool = False) -> None:
        self.content = content
        self.deep = deep
        self._tree = content.open_tree(deep_budget() if deep else quick_budget())
        self.warnings = self._tree.warnings

    def labels(self) -> dict[str, str]:
        return self.content.labels()

    def environment(self) -> dict[str, str]:
        return self.content.environment()

    def run(self) -> Run:
        return self.content.run()

    def tree(self) -> FileTree:
        return self._tree
