"""The container runtime of a compute node, and its rights."""

from __future__ import annotations

from slurm_cmeta.doctor import ERROR, NOTE, OK, WARNING, Finding
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cmeta.doctor.plugin import Line

_RIGHTS = (
    "sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1, "
    "or install apptainer-suid"
)


def look(line: Line | None) -> Iterator[Finding]:
    """Yield what is to be said of Apptainer or Singularity here."""
    from slurm_cmeta.node import Found, runtime
    from slurm_cmeta.node.host import Host

    found = Found()
    runtime.probe(Host("/"), found)
    programs = [f"{name} {v}" for name in runtime.RUNTIMES for v in found.values(name)]
    stated = line.value("runtime") if line else ""
    if not programs and not stated:
        why = "neither apptainer nor singularity is in the usual places: no image is run here"
        yield Finding(
            ERROR, "runtime", why, "install Apptainer, or name it: runtime= in plugstack.conf"
        )
        return
    if found.warnings:
        for warning in found.warnings:
            yield Finding(WARNING, "runtime", clean(warning, 300), _RIGHTS)
    elif programs:
        yield Finding(OK, "runtime", f"{', '.join(programs)}: starts containers of ordinary users")
    else:
        yield Finding(NOTE, "runtime", f"runtime={clean(stated)} is not looked at")
