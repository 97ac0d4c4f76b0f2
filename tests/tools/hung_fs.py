"""A file system that stops answering: FUSE without libfuse, whose server is a thread of the tests.

It needs root and /dev/fuse. A process that waits for a request which the server has taken cannot
even be killed, as with a dead NFS server; leaving the context frees all of them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trouble import ToolError

# include/uapi/linux/fuse.h
IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
LOOKUP, FORGET, GETATTR, OPEN, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 26, 36, 42
NO_REPLY = (FORGET, INTERRUPT, BATCH_FORGET)
ROOT, FILE = 1, 2
INIT_OUT = struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 9, 65536, 1, 16, 0, 0)
OPEN_OUT = struct.pack("<QII", 1, 1, 0)  # FOPEN_DIRECT_IO: each read() is a request
LONG = 3600
SIZE = 1 << 20

STAGES = ("mounted", "looked up", "read")
"""What is never answered: anything (nothing is even taken), the first name, the first read."""

MNT_DETACH = 2


def mount(kind: str, place: Path, options: str, flags: int = 0) -> None:
    """Call mount(2). Raises ToolError with the kernel's reason."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"cmeta-test", os.fsencode(place), kind.encode(), flags, options.encode()):
        raise ToolError(f"{kind} cannot be mounted here: {os.strerror(ctypes.get_errno())}")


def unmount(place: Path) -> None:
    """Take a file system out of the tree, whoever still uses it."""
    ctypes.CDLL(None).umount2(os.fsencode(place), MNT_DETACH)


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == ROOT else 0o100644
    return struct.pack("<6Q10I", node, SIZE, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _reply(opcode: int, node: int, stage: str) -> bytes | int | None:
    """Return the body of an answer, an errno, or None for none ever. Each name is a file."""
    if opcode == INIT:
        return INIT_OUT
    if stage == "looked up":
        return None
    if opcode == LOOKUP:
        return struct.pack("<QQQQII", FILE, 0, LONG, LONG, 0, 0) + _attributes(FILE)
    if opcode == GETATTR:
        return struct.pack("<QII", LONG, 0, 0) + _attributes(node)
    if opcode == OPEN:
        return OPEN_OUT
    return None if opcode == 15 else errno.ENOSYS  # READ


def _serve(device: int, stop: int, stage: str) -> None:
    while stop not in (ready := select.select([device, stop], [], [])[0]):
        if not ready:
            continue
        try:
            request = os.read(device, SIZE)
        except OSError as error:
            if error.errno == errno.ENODEV:  # not mounted any more, and used by nobody
                return
            raise
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
        answer = None if opcode in NO_REPLY else _reply(opcode, node, stage)
        if isinstance(answer, int):
            os.write(device, OUT_HEADER.pack(OUT_HEADER.size, -answer, unique))
        elif answer is not None:
            size = OUT_HEADER.size + len(answer)
            os.write(device, OUT_HEADER.pack(size, 0, unique) + answer)


@contextmanager
def hung(place: Path, stage: str) -> Iterator[Path]:
    """Mount it at a new directory; raises ToolError where that is impossible."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ToolError(f"no /dev/fuse here: {error.strerror}") from None
    stop, stopper = os.pipe()
    thread = threading.Thread(target=_serve, args=(device, stop, stage), daemon=True)
    try:
        place.mkdir()
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
        mount("fuse", place, options)
        if stage != "mounted":
            thread.start()
        yield place
    finally:
        unmount(place)
        os.close(stopper)  # its end is readable now
        if thread.ident:
            thread.join()
        # With its last descriptor the kernel ends every request, and who waits for one.
        os.close(device)
        os.close(stop)
