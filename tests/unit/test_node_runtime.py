"""What the container runtimes of a node can do, from replayed machines (net_hosts.py)."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from net_hosts import (
    APPTAINER_CONF,
    CRYPTSETUP,
    KERNEL,
    OCI_TOOLS,
    PROFILE,
    SINGULARITY_CONF,
    UBUNTU_2404,
    Files,
    Link,
    apptainer,
    ask,
    build,
    buildcfg,
    of,
    singularity,
    why,
)

from slurm_cmeta.node import Found, mounts, runtime, runtime_host, runtime_rules
from slurm_cmeta.node.host import Host
from slurm_cmeta.node.runtime_host import Answer, every, some

NO_SQUASHFUSE = ("gocryptfs", "fuse2fs")


def without(files: Files, *paths: str) -> Files:
    return {path: what for path, what in files.items() if path not in paths}


@pytest.mark.parametrize(
    ("files", "abilities", "forms"),
    [
        # The RPM of EPEL 9: no setuid starter, all FUSE programs of its own.
        ({**KERNEL, **apptainer()}, ["encrypted", "ext3"], ["gocryptfs"]),
        ({**KERNEL, **apptainer("1.4.5-2")}, ["encrypted", "ext3"], ["gocryptfs"]),
        # The same with apptainer-suid, with and without cryptsetup.
        ({**KERNEL, **apptainer(suid=True)}, ["encrypted", "ext3"], ["gocryptfs"]),
        (
            {**KERNEL, **CRYPTSETUP, **apptainer(suid=True)},
            ["encrypted", "ext3"],
            ["gocryptfs", "luks"],
        ),
        # In /opt, where the plugin looks, too.
        ({**KERNEL, **apptainer(path="/opt/apptainer/bin")}, ["encrypted", "ext3"], ["gocryptfs"]),
        # 1.1 unprivileged: no encryption yet; setuid before 1.3: kernel mounts only.
        ({**KERNEL, **apptainer("1.1.9")}, ["ext3"], ["none"]),
        (
            {**KERNEL, **CRYPTSETUP, **apptainer("1.1.7", suid=True)},
            ["encrypted", "ext3"],
            ["luks"],
        ),
        ({**KERNEL, **CRYPTSETUP, **apptainer("1.2.5", suid=True)}, ["encrypted"], ["luks"]),
        # 1.0 takes cryptsetup from its configuration only.
        ({**KERNEL, **CRYPTSETUP, **apptainer("1.0.3", suid=True)}, ["ext3"], ["none"]),
        (
            {
                **KERNEL,
                **CRYPTSETUP,
                **apptainer(
                    "1.0.3",
                    suid=True,
                    conf=APPTAINER_CONF + "cryptsetup path = /usr/sbin/cryptsetup\n",
                ),
            },
            ["encrypted", "ext3"],
            ["luks"],
        ),
        # The system's gocryptfs needs fusermount; that of the package does not.
        ({**KERNEL, **apptainer(own=("squashfuse_ll",))}, ["none"], ["none"]),
        (
            {**KERNEL, "/usr/bin/gocryptfs": "program", **apptainer(own=("squashfuse_ll",))},
            ["none"],
            ["none"],
        ),
        (
            {
                **KERNEL,
                "/usr/bin/gocryptfs": "program",
                "/usr/bin/squashfuse": "program",
                "/usr/bin/fusermount3": "program",
                **apptainer(own=()),
            },
            ["encrypted"],
            ["gocryptfs"],
        ),
        ({**KERNEL, **apptainer(own=NO_SQUASHFUSE)}, ["ext3"], ["none"]),
        # The site's settings.
        (
            {**KERNEL, **apptainer(suid=True, conf="allow container encrypted = no\n")},
            ["ext3"],
            ["none"],
        ),
        (
            {
                **KERNEL,
                **CRYPTSETUP,
                **apptainer(suid=True, own=(), conf="allow setuid-mount extfs = yes\n"),
            },
            ["ext3"],
            ["none"],
        ),
        (
            {
                **KERNEL,
                **CRYPTSETUP,
                **apptainer(suid=True, own=(), conf="allow setuid-mount squashfs = yes\n"),
            },
            ["encrypted"],
            ["luks"],
        ),
        (
            {
                **KERNEL,
                **CRYPTSETUP,
                **apptainer(suid=True, conf="allow setuid-mount encrypted = no\n"),
            },
            ["encrypted", "ext3"],
            ["gocryptfs"],
        ),
        # `allow setuid = no` makes a setuid installation an unprivileged one.
        (
            {**KERNEL, **CRYPTSETUP, **apptainer(suid=True, conf="allow setuid = no\n")},
            ["encrypted", "ext3"],
            ["gocryptfs"],
        ),
        # No FUSE device, or a kernel too old to let a user namespace use it.
        ({**without(KERNEL, "/dev/fuse"), **apptainer()}, ["none"], ["none"]),
        (
            {**without(KERNEL, "/dev/fuse"), **CRYPTSETUP, **apptainer(suid=True)},
            ["encrypted"],
            ["luks"],
        ),
        (
            {
                **KERNEL,
                "/proc/sys/kernel/osrelease": "3.10.0-1160.el7.x86_64\n",
                **apptainer("1.2.5"),
            },
            ["none"],
            ["none"],
        ),
        # SingularityCE, setuid; OCI mode where all that it asks for is there.
        ({**KERNEL, **CRYPTSETUP, **singularity()}, ["encrypted", "ext3"], ["luks"]),
        (
            {**KERNEL, **CRYPTSETUP, **OCI_TOOLS, **singularity()},
            ["encrypted", "ext3", "oci-sif"],
            ["luks"],
        ),
        (
            {**KERNEL, **OCI_TOOLS, **singularity("singularity-ce version 3.11.5")},
            ["ext3"],
            ["none"],
        ),
        (
            {
                **KERNEL,
                **OCI_TOOLS,
                **singularity(conf=SINGULARITY_CONF.replace("mount dev = yes", "mount dev = no")),
            },
            ["ext3"],
            ["none"],
        ),
        (
            {**KERNEL, **CRYPTSETUP, **singularity("singularity version 3.8.7-1.el8")},
            ["encrypted", "ext3"],
            ["luks"],
        ),
        # Both: each gives what it can.
        (
            {**KERNEL, **OCI_TOOLS, **apptainer(), **singularity()},
            ["encrypted", "ext3", "oci-sif"],
            ["gocryptfs"],
        ),
    ],
)
def test_the_abilities(
    tmp_path: Path, files: Files, abilities: list[str], forms: list[str]
) -> None:
    found = ask(runtime.probe, build(tmp_path, files))
    assert of(found, "runtime") == abilities
    assert of(found, "runtime.encryption") == forms
    assert not found.is_unknown("runtime")


@pytest.mark.parametrize(
    ("files", "apptainer_version", "singularity_version"),
    [
        (apptainer("1.4.1"), ["1.4.1"], ["none"]),
        (apptainer("1.3.4-1.el9"), ["1.3.4"], ["none"]),
        (apptainer("1.5.0~rc.2"), ["1.5.0"], ["none"]),
        (singularity(), [], ["4.1.5"]),
        (singularity("singularity-ce version 4.1.5+ds4-1"), [], ["4.1.5"]),  # Debian
        (singularity("singularity-pro version 3.11-9.el8"), [], ["3.11"]),
        ({**apptainer(), **singularity()}, ["1.3.4"], ["4.1.5"]),
        (singularity("apptainer version 1.3.4"), [], ["none"]),  # a wrapper that is no link
        ({"/usr/bin/singularity": Link("apptainer")}, [], []),
        ({}, [], []),
    ],
)
def test_the_versions(
    tmp_path: Path, files: Files, apptainer_version: list[str], singularity_version: list[str]
) -> None:
    found = ask(runtime.probe, build(tmp_path, {**KERNEL, **files}))
    assert of(found, "apptainer") == apptainer_version
    assert of(found, "singularity") == singularity_version
    for key, values in (("apptainer", apptainer_version), ("singularity", singularity_version)):
        assert found.is_unknown(key) is (not values)


def test_no_program_is_unknown_for_a_module_may_bring_one(tmp_path: Path) -> None:
    found = ask(runtime.probe, build(tmp_path, KERNEL))
    assert of(found, "runtime") == []
    for key in ("apptainer", "singularity", "runtime", "runtime.setuid"):
        assert "it may come by a module" in why(found, key)
    assert of(found, "runtime.userns") == of(found, "runtime.fuse") == ["yes"]


@pytest.mark.parametrize(
    ("files", "setuid", "userns", "fuse"),
    [
        ({**KERNEL, **apptainer()}, "no", "yes", "yes"),
        ({**KERNEL, **apptainer(suid=True)}, "yes", "yes", "yes"),
        ({**KERNEL, **apptainer(suid=True, conf="allow setuid = no\n")}, "no", "yes", "yes"),
        (
            {**KERNEL, "/proc/sys/user/max_user_namespaces": "0\n", **apptainer(suid=True)},
            "yes",
            "no",
            "yes",
        ),
        (
            {**KERNEL, "/proc/sys/kernel/unprivileged_userns_clone": "0\n", **apptainer()},
            "no",
            "no",
            "yes",
        ),
        ({**without(KERNEL, "/proc/self/ns/user"), **apptainer()}, "no", "no", "yes"),
        ({**UBUNTU_2404, **apptainer()}, "no", "no", "yes"),
        (
            {**UBUNTU_2404, "/etc/apparmor.d/apptainer": PROFILE, **apptainer()},
            "no",
            "yes",
            "yes",
        ),
        (
            {
                **UBUNTU_2404,
                "/etc/apparmor.d/apptainer": PROFILE.replace("  userns,", "  # userns,"),
                **apptainer(),
            },
            "no",
            "no",
            "yes",
        ),
        (
            {
                **UBUNTU_2404,
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n",
                **apptainer(),
            },
            "no",
            "yes",
            "yes",
        ),
        ({**without(KERNEL, "/dev/fuse"), **apptainer()}, "no", "yes", "no"),
        (
            {  # installed on a file system where setuid bits do not count
                **KERNEL,
                "/proc/mounts": "x / xfs rw 0 0\ny /usr nfs4 ro,nosuid 0 0\n",
                **apptainer(suid=True),
            },
            "no",
            "yes",
            "yes",
        ),
        (
            {
                **KERNEL,
                **apptainer(suid=True),
                "/usr/libexec/apptainer/bin/starter-suid": "program",
            },
            "no",
            "yes",
            "yes",
        ),
    ],
)
def test_what_the_host_lets_users_do(
    tmp_path: Path, files: Files, setuid: str, userns: str, fuse: str
) -> None:
    found = ask(runtime.probe, build(tmp_path, files))
    assert of(found, "runtime.setuid") == [setuid]
    assert of(found, "runtime.userns") == [userns]
    assert of(found, "runtime.fuse") == [fuse]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**KERNEL, "/proc/sys/user/max_user_namespaces": "0\n", **apptainer()}, "is 0"),
        ({**UBUNTU_2404, **apptainer()}, "no profile exempts apptainer"),
        (
            {
                **KERNEL,
                **apptainer(suid=True),
                "/usr/libexec/apptainer/bin/starter-suid": "program",
            },
            "starter-suid is not setuid root",
        ),
        ({**KERNEL, **apptainer(conf="allow user ns = no\n")}, "allow user ns = no"),
    ],
)
def test_a_runtime_that_can_start_nothing_is_a_warning(
    tmp_path: Path, files: Files, words: str
) -> None:
    found = ask(runtime.probe, build(tmp_path, files))
    assert of(found, "runtime") == ["none"]
    assert [w for w in found.warnings if words in w and "can start no container" in w]


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("/recorded-commands/apptainer --version", "segmentation fault", "says `segmentation"),
        (
            "/recorded-commands/apptainer --version",
            "apptainer version ",
            "says `apptainer version`",
        ),
        ("/recorded-commands/apptainer --version", "apptainer version 1.", "says"),
        ("/recorded-commands/apptainer --version", "apptainer version 1.2.3.4.5", "says"),
        ("/recorded-commands/apptainer buildcfg", "Usage: apptainer", "does not tell LIBEXECDIR"),
        ("/recorded-commands/apptainer buildcfg", buildcfg("apptainer", 7), "cannot be"),
        ("/recorded-commands/apptainer buildcfg", buildcfg("apptainer", 0, "usr"), "cannot be"),
        ("/etc/apptainer/apptainer.conf", "\x00\x01\x02", "line 1 is no setting"),
        ("/etc/apptainer/apptainer.conf", "allow setuid\n", "line 1 is no setting"),
        ("/proc/sys/user/max_user_namespaces", "many", "no number"),
        ("/proc/sys/user/max_user_namespaces", "-1", "no number"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "", "no number"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "x", "no number"),
        ("/proc/sys/kernel/osrelease", "five", "osrelease says `five`"),
    ],
)
def test_garbage_makes_the_abilities_unknown(
    tmp_path: Path, path: str, content: str, words: str
) -> None:
    found = ask(runtime.probe, build(tmp_path, {**KERNEL, **apptainer(), path: content}))
    assert of(found, "runtime") == []
    assert words in why(found, "runtime")


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("/recorded-commands/apptainer --version", False),  # a hung program: no recorded answer
        ("/recorded-commands/apptainer buildcfg", False),
        ("/etc/apptainer/apptainer.conf", False),
        ("/proc/self/ns/user", True),
        ("/proc/sys/user/max_user_namespaces", False),
        ("/proc/sys/kernel/osrelease", False),
        ("/proc/mounts", True),  # asked for a setuid starter only
    ],
)
def test_what_is_missing(tmp_path: Path, path: str, known: bool) -> None:
    found = ask(runtime.probe, build(tmp_path, without({**KERNEL, **apptainer()}, path)))
    assert bool(of(found, "runtime")) is known
    assert found.is_unknown("runtime") is not known


@pytest.mark.parametrize("content", ["", "garbage\n", "x / xfs rw 0\n"])
def test_without_mounts_a_setuid_starter_is_unknown(tmp_path: Path, content: str) -> None:
    files = {**KERNEL, **apptainer(suid=True), "/proc/mounts": content}
    found = ask(runtime.probe, build(tmp_path, files))
    assert of(found, "runtime.setuid") == of(found, "runtime") == []
    assert "/proc/mounts" in why(found, "runtime.setuid")


def test_what_the_site_may_have_is_unknown(tmp_path: Path) -> None:
    # Subordinate ids may come from a directory service, the device mapper be loaded on demand.
    files = without({**KERNEL, **CRYPTSETUP, **OCI_TOOLS, **singularity()}, "/dev/mapper/control")
    found = ask(runtime.probe, build(tmp_path, {**files, "/etc/subuid": "# none\n"}))
    assert of(found, "runtime") == ["ext3"]
    assert "encrypted: /dev/mapper/control is not there (yet)" in why(found, "runtime")
    assert "oci-sif: /etc/subuid gives nobody" in why(found, "runtime")


def test_half_an_ability_is_unknown(tmp_path: Path) -> None:
    # SingularityCE without setuid mounts bare ext3 images by FUSE, and no SIF with one.
    files = {**KERNEL, **OCI_TOOLS, "/usr/bin/fuse2fs": "program", **singularity(suid=False)}
    found = ask(runtime.probe, build(tmp_path, files))
    assert of(found, "runtime") == ["oci-sif"]
    assert (
        why(found, "runtime")
        == "ext3: singularity: with FUSE it mounts bare ext3 images only, no SIF"
    )


def test_a_release_that_nobody_has_looked_at_may_do_more(tmp_path: Path) -> None:
    found = ask(runtime.probe, build(tmp_path, {**KERNEL, **apptainer("1.7.0")}))
    assert of(found, "runtime") == ["encrypted", "ext3"]
    assert "oci-sif: apptainer 1.7.0 is newer" in why(found, "runtime")


def test_the_first_of_two_settings_counts(tmp_path: Path) -> None:
    conf = "allow container encrypted = no\nallow container encrypted = yes\n"
    found = ask(runtime.probe, build(tmp_path, {**KERNEL, **apptainer(conf=conf)}))
    assert of(found, "runtime") == ["ext3"]


def test_an_unreadable_singularity_beside_apptainer_is_said(tmp_path: Path) -> None:
    files = {**KERNEL, **apptainer(), **singularity("garbage")}
    found = ask(runtime.probe, build(tmp_path, files))
    assert of(found, "runtime") == ["encrypted", "ext3"]
    assert "says `garbage`" in why(found, "singularity")
    assert "says `garbage`" in why(found, "runtime")


def test_answers() -> None:
    yes, no, unknown = Answer(True, "y"), Answer(False, "n"), Answer(None, "u")
    assert every([yes, yes]) == yes
    assert every([unknown, yes, no]) == no
    assert every([yes, unknown]) == unknown
    assert every([]).is_so is True
    assert some([no, unknown, yes]) == yes
    assert some([no, unknown]) == unknown
    assert some([no, no]) == no


def test_mounts(tmp_path: Path) -> None:
    text = "a / ext4 rw 0 0\nb /opt autofs rw 0 0\nc /opt/my\\040apps fuse.sshfs rw 0 0\n"
    root = Host(str(build(tmp_path, {"/proc/mounts": text + "d /srv tmpfs rw,nosuid 0 0\n"})))
    found = mounts.read(root)
    point = {path: mounts.of(found, path) for path in ("/", "/optics", "/opt/x", "/opt/my apps/x")}
    assert {path: m and (m.point, m.remote) for path, m in point.items()} == {
        "/": ("/", False),
        "/optics": ("/", False),
        "/opt/x": ("/opt", True),
        "/opt/my apps/x": ("/opt/my apps", True),
    }


def test_random_garbage_in_any_file_raises_nothing(tmp_path: Path) -> None:
    profile = {"/etc/apparmor.d/apptainer": PROFILE}
    build(tmp_path, {**UBUNTU_2404, **profile, **OCI_TOOLS, **CRYPTSETUP, **singularity()})
    build(tmp_path, apptainer(suid=True))
    chance = random.Random(5)  # noqa: S311
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 25
    for file in sorted(files):
        whole, mode = file.read_bytes(), file.stat().st_mode
        for size in (0, 1, 9, 500):
            file.write_bytes(chance.randbytes(size))
            found = Found()
            runtime.probe(Host(str(tmp_path)), found)
            assert all(f.value.isprintable() and f.source.isprintable() for f in found.facts)
            assert {f.key for f in found.facts} | {u.key for u in found.unknown} == set(
                runtime.KEYS
            )
        file.write_bytes(whole)
        file.chmod(stat.S_IMODE(mode))


def test_versions_compare_by_number() -> None:
    newer = runtime_rules._newer
    assert newer("1.10.0", "1.9")
    assert newer("1.3", "1.3.0")
    assert not newer("1.1.7", "1.1.8")
    assert not newer("9" * 4 + ".0", "10000.0")


def test_this_machine_is_answered() -> None:
    found = Found()
    runtime.probe(Host(), found)
    assert {f.key for f in found.facts} | {u.key for u in found.unknown} == set(runtime.KEYS)


@pytest.mark.parametrize(
    ("mode", "is_so"),
    [
        (stat.S_IFCHR | 0o666, True),  # udev's rule 50-udev-default.rules
        (stat.S_IFCHR | 0o600, False),
        (stat.S_IFCHR | 0o660, None),  # a group, or an access list
        (stat.S_IFREG | 0o600, True),  # a replayed machine
        (stat.S_IFDIR | 0o777, None),
    ],
)
def test_fuse_is_for_users_where_they_can_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, is_so: bool | None
) -> None:
    host = Host(str(build(tmp_path, KERNEL)))
    monkeypatch.setattr(host, "mode", lambda _: os.stat_result((mode, *[0] * 9)))
    assert runtime_host.fuse(host).is_so is is_so


def test_each_fact_says_why(tmp_path: Path) -> None:
    found = ask(runtime.probe, build(tmp_path, {**KERNEL, **apptainer("1.4.1")}))
    sources = {(f.key, f.value): f.source for f in found.facts}
    assert sources == {
        ("apptainer", "1.4.1"): "/usr/bin/apptainer --version",
        ("singularity", "none"): "/usr/bin/singularity is apptainer",
        ("runtime.fuse", "yes"): "/dev/fuse",
        ("runtime.userns", "yes"): "/proc/sys/user/max_user_namespaces",
        ("runtime.setuid", "no"): "apptainer 1.4.1 is installed without setuid starter",
        ("runtime", "encrypted"): sources["runtime.encryption", "gocryptfs"],
        ("runtime.encryption", "gocryptfs"): (
            "/usr/bin/apptainer 1.4.1, /proc/sys/user/max_user_namespaces, "
            "/etc/apptainer/apptainer.conf, /usr/libexec/apptainer/bin/gocryptfs, "
            "/usr/libexec/apptainer/bin/squashfuse_ll, /dev/fuse, /proc/sys/kernel/osrelease"
        ),
        ("runtime", "ext3"): sources["runtime", "ext3"],
    }
