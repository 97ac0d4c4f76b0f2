"""/etc/ld.so.cache: which shared libraries the image's loader knows, in one file.

Source: glibc sysdeps/generic/dl-cache.h, struct cache_file_new. Caches of glibc before 2.32 begin
with the same list in an older form, which is passed over.
"""

from __future__ import annotations

from struct import Struct

PATH = "/etc/ld.so.cache"

MAX_CACHE = 4 * 1024 * 1024
"""Bytes of the cache that are read: a desktop's has 200 kB."""

MAX_LIBRARIES = 50_000
"""Entries that are taken."""

_NEW = b"glibc-ld.so.cache1.1"
_OLD = b"ld.so-1.7.0\0"
_HEADER = 48
_COUNT = Struct("<I")
_ENTRY = Struct("<iIIIQ")


def read(data: bytes) -> dict[str, str]:
    """Return soname -> path; of equal names the first counts, as for the loader.

    Entries of glibc-hwcaps directories, which serve some machines only, come before the plain one
    in the cache and are passed over. Damage ends the list; a big-endian cache gives none.
    """
    start = data.find(_NEW) if data.startswith((_NEW, _OLD)) else -1
    if start < 0 or start + _HEADER > len(data):
        return {}
    (count,) = _COUNT.unpack_from(data, start + len(_NEW))
    found: dict[str, str] = {}
    for number in range(min(count, MAX_LIBRARIES)):
        at = start + _HEADER + number * _ENTRY.size
        if at + _ENTRY.size > len(data):
            break
        _, key, value, _, hwcap = _ENTRY.unpack_from(data, at)
        if not hwcap:
            name, path = _string(data, start + key), _string(data, start + value)
            if name and path.startswith("/"):
                found.setdefault(name, path)
    return found


def _string(data: bytes, at: int) -> str:
    if at >= len(data):
        return ""
    return data[at : at + 1024].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
