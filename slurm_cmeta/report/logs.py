"""The lines of logs: plain or compressed files, standard input, the journal; never all at once."""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import subprocess
import sys
import tempfile
import zlib

from slurm_cmeta.cluster import slurmconf
from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.report.line import MAX_LINE
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

STDIN = "-"

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
"""First bytes -> how such a file is read; logrotate has all three."""

JOURNAL = ("journalctl", "--no-pager", "--quiet", "-o", "json", "-t", "slurmctld", "-t", "cmeta")


def lines(stream: IO[bytes], *, whole: bool = False) -> Iterator[tuple[bytes, int]]:
    """Yield each line and the number of bytes up to its end; a line above MAX_LINE is passed over.

    With `whole` a last line that is not ended yet is left for another time.
    """
    end = 0
    while raw := stream.readline(MAX_LINE):
        size = len(raw)
        while not raw.endswith(b"\n") and (more := stream.readline(MAX_LINE)):
            size, raw = size + len(more), more
        if whole and not raw.endswith(b"\n"):
            return
        end += size
        if size <= MAX_LINE:
            yield raw, end


def read(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, plain or compressed, or of standard input (`-`).

    Raises ClusterError when it cannot be read.
    """
    if path == STDIN:
        yield from (line for line, _ in lines(sys.stdin.buffer))
        return
    try:
        with open(path, "rb") as file:
            start = file.peek(6)
            opened = next((o for magic, o in _COMPRESSED.items() if start.startswith(magic)), None)
            stream: IO[bytes] = opened(file) if opened else file
            yield from (line for line, _ in lines(stream))
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise ClusterError(f"{clean(path)}: cannot be read to its end: {error}") from None
    except OSError as error:
        reason = error.strerror or error
        raise ClusterError(f"{clean(path)}: the log cannot be read: {reason}") from None


def journal(*options: str) -> Iterator[bytes]:
    """Yield the entries of slurmctld and of the plugin in the journal, as JSON.

    Raises ClusterError when journalctl cannot be run, or fails.
    """
    command = [*JOURNAL, *options]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise ClusterError(f"journalctl cannot be run: {error.strerror}") from None
        with process:
            assert process.stdout is not None
            try:
                yield from (line for line, _ in lines(process.stdout))
            except GeneratorExit:
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            said = errors.read(4096).decode(errors="replace").splitlines()
            reason = clean(said[0]) if said else f"exit status {process.returncode}"
            raise ClusterError(f"journalctl failed: {reason}")


def controllers_log(slurm_conf: str) -> str:
    """Return where slurm.conf says that slurmctld writes its log. Raises ClusterError."""
    path = slurmconf.read(slurm_conf).options.get("slurmctldlogfile", "")
    if not path.startswith("/"):
        raise ClusterError(
            f"{clean(slurm_conf)} names no SlurmctldLogFile: name the file, or say --journal"
        )
    return path


def with_rotated(path: str, since: int = 0) -> list[str]:
    """Return a log and what was rotated away from it, oldest first; none last written before."""
    found = []
    for one in {path, *glob.glob(glob.escape(path) + "[.-]*")}:
        try:
            written = os.stat(one).st_mtime
        except OSError:
            continue
        if written >= since:
            found.append((written, one))
    return [one for _, one in sorted(found)] or [path]
