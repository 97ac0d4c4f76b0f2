"""For which GPUs the programs of an image have code."""

from __future__ import annotations

from slurm_cmeta.evidence import fatbin, hip
from slurm_cmeta.evidence.codeobject import DEEP_READS, QUICK_READS, Found
from slurm_cmeta.evidence.gpu_need import Clue
from slurm_cmeta.evidence.gpu_target import vendor_of
from slurm_cmeta.evidence.subject import PROGRAM, reading
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.evidence.subject import Binary, Subject

MAX_TARGETS = 64
"""Architectures that are believed of one image; NVIDIA's and AMD's libraries have up to 25."""

LIBRARY = "library"
"""Role of a GPU library that is looked at only because there may be nothing better."""

_BARE = (f"machine {fatbin.EM_CUDA}", f"machine {hip.EM_AMDGPU}")


class Code(NamedTuple):
    """The code objects of an image."""

    targets: frozenset[str]
    source: str
    own: bool
    """Whether they are those of the image's own program, not of whatever lies in the image."""
    complete: bool
    """Whether there are no others, so that a GPU that is not among them cannot be used."""
    clues: list[Clue]


def read(subject: Subject, binaries: Iterable[Binary]) -> Code:
    """Return the code objects of the program among `binaries`.

    If it has none, return those of the other files, and if they have none, those of the libraries,
    which NVIDIA and AMD build for all of their GPUs.
    """
    own, others, libraries = _Sum(), _Sum(), _Sum()
    left = QUICK_READS
    for binary in binaries:
        if subject.deep:
            left = DEEP_READS
        place = {PROGRAM: own, LIBRARY: libraries}.get(binary.role, others)
        left -= place.add(subject, binary, left)
    total = next((place for place in (own, others) if place.targets), libraries)
    if len(total.targets) > MAX_TARGETS:
        subject.warnings.add(
            f"{total.source()} claims code for {len(total.targets)} GPU architectures: not believed"
        )
        return Code(frozenset(), "", False, False, [])
    vendors = sorted({vendor_of(name) for name in total.targets}, reverse=True)
    source = f"code in {total.source()}"
    return Code(
        frozenset(total.targets),
        source,
        total is own,
        total.complete,
        [Clue(vendor, source) for vendor in vendors],
    )


class _Sum:
    """Code objects of several files."""

    def __init__(self) -> None:
        self.targets: set[str] = set()
        self.complete = True
        self.paths: list[str] = []

    def add(self, subject: Subject, binary: Binary, reads: int) -> int:
        """Add those of one file and return how many reads that took, up to `reads`."""
        if subject.tree is None:
            return 0
        used = 0
        content = reading(subject.tree, binary.entry)

        def read(offset: int, size: int) -> bytes:
            nonlocal used
            used += 1
            return content(offset, size)

        if binary.elf.family in _BARE:
            head = read(0, 64)
            name = fatbin.cubin(head) or hip.processor(head)
            self._note(binary, Found(frozenset((name,)) if name else frozenset()))
            return used
        if not binary.elf.little:
            return 0
        sections = binary.elf.sections()
        for module in (fatbin, hip):
            for name in module.SECTIONS:
                section = sections.get(name)
                if section is not None and section.size > 0 and section.offset > 0:
                    found = module.targets(read, section.offset, section.size, reads - used)
                    if found.problem:
                        subject.warnings.add(f"{clean(binary.entry.path)}: {found.problem}")
                    self._note(binary, found)
        return used

    def _note(self, binary: Binary, found: Found) -> None:
        self.complete = self.complete and found.complete
        if found.targets:
            self.targets |= found.targets
            if binary.entry.path not in self.paths:
                self.paths.append(binary.entry.path)

    def source(self) -> str:
        """Name the files in words."""
        if not self.paths:
            return ""
        more = len(self.paths) - 1
        others = f" and {more} more file{'s' if more > 1 else ''}" if more else ""
        return clean(self.paths[0]) + others
