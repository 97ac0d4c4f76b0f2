"""Container runtimes: Apptainer and Singularity, and what they can mount for an ordinary user.

`apptainer`            version (`1.4.1`); unknown where no such program is found
`singularity`          version of SingularityCE (or PRO, or the old Singularity); `none` where the
                       name leads to Apptainer
`runtime`              abilities, spelled as the requirement of an image: encrypted, ext3, oci-sif
`runtime.encryption`   the forms of encryption: gocryptfs, luks
`runtime.setuid`       yes, no: containers are started by a setuid starter
`runtime.userns`       yes, no: users can make user namespaces that can mount
`runtime.fuse`         yes, no: users can open /dev/fuse

Programs are looked for in the host's program path. Where there is none, a runtime may still come
by an environment module, whose place nobody can guess: unknown, never `none`. What is said of
abilities is then unknown, too, and the site can state it.

`encrypted` stands for any form: images say no more than that they are encrypted. Those made by
root with the device mapper (luks) and those made by users (gocryptfs) need different things of a
node, so `runtime.encryption` says which.

An ability is one of the runtimes found; where both are installed, its source names the program.
"""

from __future__ import annotations

from slurm_cmeta.node import NONE, runtime_host, runtime_rules
from slurm_cmeta.node.host import PROGRAM_PATH, HostError, Missing
from slurm_cmeta.node.runtime_host import Answer, some
from slurm_cmeta.node.runtime_rules import ABILITIES, ANY, Install
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from slurm_cmeta.node import Found
    from slurm_cmeta.node.host import Host

KEYS = (
    *("apptainer", "singularity", "runtime", "runtime.encryption"),
    *("runtime.setuid", "runtime.userns", "runtime.fuse"),
)

RUNTIMES = ("apptainer", "singularity")


def probe(host: Host, found: Found) -> None:
    """Add the runtimes and their abilities. Raises nothing of its own."""
    installs: list[Install] = []
    unread: list[str] = []
    for name in RUNTIMES:
        try:
            what = _install(host, found, name)
        except HostError as error:
            unread.append(str(error))
        else:
            installs += [what] if what else []
    _say(found, "runtime.fuse", runtime_host.fuse(host))
    names = [what.name for what in installs] or list(RUNTIMES[:1])
    namespaces = [runtime_host.user_namespaces(host, name) for name in names]
    _say(found, "runtime.userns", some(namespaces))
    if not installs:
        where = f"no runtime in {PROGRAM_PATH}; it may come by a module"
        for key in ("runtime", "runtime.encryption", "runtime.setuid"):
            found.cannot_tell(key, "; ".join(unread) or where)
        return
    _say(found, "runtime.setuid", some(runtime_rules.setuid(host, what) for what in installs))
    _abilities(host, found, installs)
    for reason in unread:
        for key in ("runtime", "runtime.encryption"):
            found.cannot_tell(key, reason)


def _install(host: Host, found: Found, name: str) -> Install | None:
    """Add the version of a runtime and return it, None where there is none.

    Raises HostError where it is there and does not tell what it is.
    """
    try:
        path = host.program(name)
        leads_to = host.real(path).rpartition("/")[2]
    except Missing:
        found.cannot_tell(name, f"no {name} in {PROGRAM_PATH}; it may come by a module")
        return None
    except HostError as error:
        found.cannot_tell(name, error)
        raise
    if name != leads_to and leads_to in RUNTIMES:
        found.fact(name, NONE, f"{path} is {leads_to}")
        return None
    try:
        release = runtime_rules.version(name, host.run(name, "--version"))
        if not release:
            found.fact(name, NONE, f"{path} --version")
            return None
        found.fact(name, release, f"{path} --version")
        return runtime_rules.install(host, name, path, release)
    except HostError as error:
        if not found.values(name):
            found.cannot_tell(name, error)
        raise


def _say(found: Found, key: str, answer: Answer) -> None:
    if answer.is_so is None:
        found.cannot_tell(key, answer.why)
    else:
        found.fact(key, "yes" if answer.is_so else "no", answer.why)


def _abilities(host: Host, found: Found, installs: list[Install]) -> None:
    for what in installs:
        starts = runtime_rules.modes(host, what)[ANY]
        if starts.is_so is False:
            found.warn(f"{what.name} can start no container of an ordinary user: {starts.why}")
    for name in ABILITIES:
        reasons = []
        for what in installs:
            answer, forms = runtime_rules.ability(host, what, name)
            if answer.is_so:
                source = f"{what.path} {what.version}, {answer.why}"
                found.fact("runtime", name, source)
                for form in forms if name == "encrypted" else ():
                    found.fact("runtime.encryption", form, source)
            elif answer.is_so is None:
                reasons.append(answer.why)
        if name not in found.values("runtime"):
            for reason in reasons:
                found.cannot_tell("runtime", f"{name}: {reason}")
                if name == "encrypted":
                    found.cannot_tell("runtime.encryption", reason)
    source = ", ".join(f"{what.path} {what.version}" for what in installs)
    for key in ("runtime", "runtime.encryption"):
        if not found.values(key) and not found.is_unknown(key):
            found.fact(key, NONE, source)
