"""What the readers of GPU code objects share: their answer, and bounded reading of a section."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK_READS = 64
"""Reads on the way of a submission, all programs together: 256 KB of headers, a few milliseconds.
A program of one source file needs two, libcublasLt thousands."""

DEEP_READS = 100_000
"""Reads of one section in a deep look. The largest real sections (libtorch_cuda, libcublasLt) have
some ten thousand code objects."""

CHUNK = 4096
"""Bytes fetched at a time: small code objects lie so near to each other that one read has several
of their headers."""


class Found(NamedTuple):
    """What code objects a section holds."""

    targets: frozenset[str] = frozenset()
    """`sm_80`, `compute_90`, `gfx90a`, ..."""
    complete: bool = True
    """False if there may be more: damage, a bound, something that cannot be unpacked. Then only
    what was found may be said, not what is missing."""
    problem: str = ""
    """Why it is not complete, in words, where a person could mend it."""


class Window:
    """A section, read through one chunk at a time and no more than `reads` times."""

    def __init__(
        self, read: Callable[[int, int], bytes], offset: int, size: int, reads: int
    ) -> None:
        """`read(offset, size)` reads the file; `offset` and `size` in bytes are the section's."""
        self._read = read
        self._offset = offset
        self._start = 0
        self._chunk = b""
        self.size = size
        self.left = reads
        """Reads that may still be made."""

    def get(self, position: int, size: int) -> bytes:
        """Return `size` bytes at `position` of the section, fewer at its end or after the bound."""
        start = position - self._start
        if start >= 0 and start + size <= len(self._chunk):
            return self._chunk[start : start + size]
        wanted = min(max(size, CHUNK), self.size - position)
        if wanted <= 0 or position < 0 or self.left <= 0:
            return b""
        self.left -= 1
        self._start = position
        self._chunk = self._read(self._offset + position, wanted)[:wanted]
        return self._chunk[:size]

    def find(self, magic: bytes, position: int, alignment: int) -> int:
        """Return where the chunk from `position` on has `magic` at `alignment`, or -1.

        Looks no further than one chunk: what linkers put between two objects is padding.
        """
        chunk = self.get(position, min(CHUNK, self.size - position))
        at = chunk.find(magic)
        while at >= 0 and (position + at) % alignment:
            at = chunk.find(magic, at + 1)
        return position + at if at >= 0 else -1

    def only_padding(self, position: int) -> bool:
        """Tell whether nothing but less than a chunk of zeros follows."""
        left = self.size - position
        return left <= 0 or (left <= CHUNK and self.get(position, left) == bytes(left))


def aligned(position: int, alignment: int) -> int:
    """Return the next multiple of `alignment`."""
    return -(-position // alignment) * alignment
