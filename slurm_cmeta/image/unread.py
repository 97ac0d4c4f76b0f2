"""Names files that are no image of a format read here, so that the user sees the mistake."""

from __future__ import annotations

_STARTS = (
    (b"sqsh", "is a squashfs of before 2009 or of another byte order, which is not read"),
    (b"\x7fELF", "is a program or library (ELF), not an image"),
    (b"\x28\xb5\x2f\xfd", "is a zstd-compressed file, not an image"),
    (b"\xfd7zXZ\x00", "is an xz-compressed file, not an image"),
    (b"BZh", "is a bzip2-compressed file, not an image"),
    (b"PK\x03\x04", "is a zip archive, not an image"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the image itself"),
    (b"{", "is JSON text, not an image"),
    (b"<", "is an HTML or XML page, not an image"),
    (b"Bootstrap:", "is a definition file, not an image built from it"),
    (b"bootstrap:", "is a definition file, not an image built from it"),
)
DIRECTORY = (
    "is a directory, but no image: it holds no oci-layout, no config.json of an OCI bundle and no "
    "root file system"
)
_GZIP = b"\x1f\x8b"
_OLD_LAUNCH = b"run-singularity\n"
_EXT_MAGIC = 1024 + 0x38
"""Offset of s_magic, 0xEF53, in an ext2/3/4 file system (linux fs/ext4/ext4.h)."""


def name(head: bytes) -> str:
    """Return the reason why a file that starts with `head` cannot be read, in a few words."""
    for start, reason in _STARTS:
        if head.startswith(start):
            return reason
    if head.startswith(_GZIP):
        return _inside_gzip(head)
    if head[257:262] == b"ustar":
        return "is a damaged tar archive"
    launch = head[:64].find(_OLD_LAUNCH)
    if launch >= 0:
        head = head[launch + len(_OLD_LAUNCH) :]
    if head[_EXT_MAGIC : _EXT_MAGIC + 2] == b"\x53\xef":
        return "is an ext3 image, which is not read; convert it to SIF"
    if launch >= 0:
        return "is an image of Singularity before 3.0, not a SIF"
    if head.startswith(b"#!"):
        return "is a script, not an image"
    if not head.strip(b"\0"):
        return "holds only zeros where an image begins"
    return "is no container image"


def _inside_gzip(head: bytes) -> str:
    """Look at the first unpacked bytes: a packed `docker save` is a common mistake."""
    import zlib

    from slurm_cmeta.image.tarheaders import BLOCK, looks_like_tar

    try:
        inside = zlib.decompressobj(31).decompress(head, BLOCK)
    except zlib.error:
        inside = b""
    if looks_like_tar(inside):
        return "is a tar archive packed with gzip, which is not read; unpack it with gunzip"
    return "is a gzip-compressed file, not an image"
