"""The decision cache: answers to the SPANK plugin that it can give again without the matcher.

The form of an entry is in docs/protocol.md; spank/cache.c reads it.
"""

from __future__ import annotations

import os
import time

from slurm_cmeta.kept import place, sources
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.kept.sources import Sources

MAX_ENTRY = 1 << 16
"""Largest entry that the plugin reads, in bytes."""


def keep(path: str, arguments: Sequence[str], answer: bytes, drawn_from: Sources) -> bool:
    """Keep the answer to a request at `path`, which the plugin has chosen; tell whether it is kept.

    `arguments` are the matcher's whole command line but for what it says about the cache.
    """
    drawn_from += sources.of_code()
    if not drawn_from.settled(time.time_ns()):
        return False
    entry = render(arguments, answer, drawn_from)
    return len(entry) + 32 <= MAX_ENTRY and place.write(path, entry)


def render(arguments: Sequence[str], answer: bytes, drawn_from: Sources) -> bytes:
    """Return an entry but for its sum."""
    request = b"".join(os.fsencode(word) + b"\0" for word in (os.uname().nodename, *arguments))
    lines = [b"cmeta-decision 1\nrequest %d\n%s" % (len(request), request)]
    lines.append(b"until %d\n" % max(1, drawn_from.until - 1) if drawn_from.until else b"until 0\n")
    for path, *numbers in drawn_from.files:
        identity = " ".join(map(str, numbers))
        lines.append(b"file %s %s\n" % (identity.encode(), os.fsencode(path)))
    lines += [b"absent %s\n" % os.fsencode(path) for path in drawn_from.absent]
    lines.append(b"answer %d\n%s" % (len(answer), answer))
    return b"".join(lines)
