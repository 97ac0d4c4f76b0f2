"""The first bytes by which formats other than SIF are told, apart from the modules that read them:
a submission imports only what its image needs.
"""

from __future__ import annotations

_SQUASHFS = b"hsqs"
_LAUNCH = b" run-singularity"
_LAUNCH_END = 2048


def squashfs_offset(head: bytes) -> int:
    """Return where the superblock of a bare squashfs is in a file that starts with `head`, or -1.

    Singularity 2.x put a line before it by which the kernel starts it (apptainer
    pkg/image/squashfs.go, parseSquashfsHeader).
    """
    if head.startswith(_SQUASHFS):
        return 0
    if not head.startswith(b"#!"):
        return -1
    found = head.find(_LAUNCH, 0, _LAUNCH_END)
    start = found + len(_LAUNCH) + 1
    return start if found >= 0 and head.startswith(_SQUASHFS, start) else -1


def is_squashfs(head: bytes) -> bool:
    """Tell whether a file that starts with `head` is a squashfs."""
    return squashfs_offset(head) >= 0


def is_tar(head: bytes) -> bool:
    """Tell whether a file that starts with `head` is a tar archive, not a packed one."""
    if head.startswith((b"\x1f\x8b", b"\x7fELF", b"#!")):
        return False
    from slurm_cmeta.image.tarheaders import looks_like_tar

    return looks_like_tar(head)
