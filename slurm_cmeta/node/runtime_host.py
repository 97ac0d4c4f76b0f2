"""What a host lets ordinary users do that container runtimes build on.

Each question has an Answer: yes, no, or unknown, and why. Nothing is tried out: the probe runs as
root, and what root can do says nothing about users.
"""

from __future__ import annotations

import stat

from slurm_cmeta.node import mounts
from slurm_cmeta.node.host import HostError, Missing
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurm_cmeta.node.host import Host

MAX_USER_NAMESPACES = "/proc/sys/user/max_user_namespaces"
USERNS_CLONE = "/proc/sys/kernel/unprivileged_userns_clone"
APPARMOR_USERNS = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
APPARMOR_PROFILES = "/etc/apparmor.d"
NAMESPACES = "/proc/self/ns"
FUSE = "/dev/fuse"
DEVICE_MAPPER = "/dev/mapper/control"
RELEASE = "/proc/sys/kernel/osrelease"
SUBIDS = ("/etc/subuid", "/etc/subgid")

FUSE_IN_USERNS = (4, 18)
"""First Linux that lets a user namespace mount FUSE (4ad769f3c346, "fuse: Allow fully unprivileged
mounts"). RHEL 8 has 4.18; RHEL 7 has none of it."""

MAX_PROFILE = 64 * 1024
"""Bytes of an AppArmor profile that are looked at; those that grant user namespaces have 500."""

MAX_PROFILES = 1000
"""AppArmor profiles that are looked at; Ubuntu 24.04 has some 150."""


class Answer(NamedTuple):
    """Yes (True), no (False) or unknown (None), and why: `/dev/fuse (mode 0600)`."""

    is_so: bool | None
    why: str


def every(answers: Iterable[Answer]) -> Answer:
    """Return yes if all are; the first no, else the first unknown, with its reason."""
    unknown = None
    reasons = []
    for answer in answers:
        if answer.is_so is False:
            return answer
        if answer.is_so is None:
            unknown = unknown or answer
        reasons.append(answer.why)
    return unknown or Answer(True, ", ".join(dict.fromkeys(filter(None, reasons))))


def some(answers: Iterable[Answer]) -> Answer:
    """Return the first yes; else unknown if any is, else no, with all the reasons."""
    left = []
    for answer in answers:
        if answer.is_so:
            return answer
        left.append(answer)
    unknown = [a for a in left if a.is_so is None]
    why = "; ".join(dict.fromkeys(a.why for a in unknown or left))
    return Answer(None if unknown else False, why)


def user_namespaces(host: Host, runtime: str) -> Answer:
    """Return whether users can start `runtime` in a user namespace that can mount.

    Sources: user_namespaces(7), namespaces(7); Debian's and Ubuntu's kernel patch for
    unprivileged_userns_clone; Ubuntu 23.10's AppArmor restriction, from which the profile of a
    package exempts its program (apptainer/apptainer dist/debian/apparmor-userns).
    """
    try:
        if "user" not in host.names(NAMESPACES):
            return Answer(False, f"{NAMESPACES}/user: the kernel has no user namespaces")
    except HostError as error:
        return Answer(None, str(error))
    limit = _number(host, MAX_USER_NAMESPACES)
    if limit is None:
        return Answer(None, f"{MAX_USER_NAMESPACES}: no number")
    if limit == 0:
        return Answer(False, f"{MAX_USER_NAMESPACES} is 0")
    for path, closed in ((USERNS_CLONE, 0), (APPARMOR_USERNS, 1)):
        try:
            if not host.exists(path):
                continue
        except HostError as error:
            return Answer(None, str(error))
        value = _number(host, path)
        if value is None:
            return Answer(None, f"{path}: no number")
        if value != closed:
            continue
        if path == APPARMOR_USERNS:
            return _apparmor_profile(host, runtime)
        return Answer(False, f"{path} is {value}")
    return Answer(True, MAX_USER_NAMESPACES)


def _apparmor_profile(host: Host, runtime: str) -> Answer:
    """Return whether a profile grants user namespaces to the runtime's starter."""
    unread = ""
    try:
        names = host.names(APPARMOR_PROFILES)[:MAX_PROFILES]
    except Missing:
        names = []
    except HostError as error:
        return Answer(None, str(error))
    for name in names:
        path = f"{APPARMOR_PROFILES}/{name}"
        try:
            if not stat.S_ISREG(host.mode(path).st_mode):
                continue
            text = host.read(path, MAX_PROFILE)
        except HostError as error:
            unread = str(error)
            continue
        lines = [line.strip() for line in text.splitlines()]
        if any(f"/{runtime}/bin/starter" in line for line in lines) and "userns," in lines:
            return Answer(True, clean(path))
    if unread:
        return Answer(None, unread)
    return Answer(False, f"{APPARMOR_USERNS} is 1, and no profile exempts {runtime}")


def fuse(host: Host) -> Answer:
    """Return whether users can open the FUSE device."""
    try:
        host.names("/dev")
        mode = host.mode(FUSE).st_mode
    except Missing as missing:
        there = str(missing).startswith(FUSE)
        return Answer(False if there else None, str(missing))
    except HostError as error:
        return Answer(None, str(error))
    # A regular file stands for the device in a replayed machine.
    if stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and mode & 0o006 == 0o006):
        return Answer(True, FUSE)
    text = f"{FUSE} has mode {stat.S_IMODE(mode):04o}"
    if not stat.S_ISCHR(mode):
        return Answer(None, f"{FUSE} is no device")
    return Answer(None, f"{text}: some users may open it") if mode & 0o060 else Answer(False, text)


def fuse_in_user_namespace(host: Host) -> Answer:
    """Return whether the kernel lets a user namespace mount FUSE."""
    try:
        said = host.read(RELEASE, 256).strip()
    except HostError as error:
        return Answer(None, str(error))
    numbers = said.split("-")[0].split(".")[:2]
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 6 for n in numbers):
        return Answer(None, f"{RELEASE} says `{clean(said, 60)}`")
    version = (int(numbers[0]), int(numbers[1]))
    if version < FUSE_IN_USERNS:
        return Answer(False, f"Linux {numbers[0]}.{numbers[1]} mounts no FUSE in user namespaces")
    return Answer(True, RELEASE)


def device_mapper(host: Host) -> Answer:
    """Return whether the device mapper is there; it may also be loaded when it is needed."""
    try:
        if host.exists(DEVICE_MAPPER):
            return Answer(True, DEVICE_MAPPER)
    except HostError as error:
        return Answer(None, str(error))
    return Answer(None, f"{DEVICE_MAPPER} is not there (yet)")


def subordinate_ids(host: Host) -> Answer:
    """Return whether users have subordinate ids. A directory service may know more than a file."""
    for path in SUBIDS:
        try:
            lines = host.read(path).splitlines()
        except HostError as error:
            return Answer(None, str(error))
        if not any(line.count(":") == 2 for line in lines):
            return Answer(None, f"{path} gives nobody subordinate ids")
    return Answer(True, " and ".join(SUBIDS))


def setuid(host: Host, path: str) -> Answer:
    """Return whether a program is there that runs as root for everybody."""
    try:
        found = host.mode(path)
        mount = mounts.of(mounts.read(host), host.real(path))
    except Missing as missing:
        return Answer(False if str(missing).startswith(clean(path)) else None, str(missing))
    except HostError as error:
        return Answer(None, str(error))
    # Who replays a machine cannot give files to root.
    owned = found.st_uid == 0 or not host.live
    if not (stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_ISUID and owned):
        return Answer(False, f"{clean(path)} is not setuid root")
    if mount is None:
        return Answer(None, f"{mounts.PATH} does not tell where {clean(path)} is")
    if "nosuid" in mount.options:
        return Answer(False, f"{clean(path)} is on {clean(mount.point)}, mounted nosuid")
    return Answer(True, clean(path))


def _number(host: Host, path: str) -> int | None:
    try:
        text = host.read(path, 64).strip()
    except HostError:
        return None
    return int(text) if text.isascii() and text.isdigit() else None
