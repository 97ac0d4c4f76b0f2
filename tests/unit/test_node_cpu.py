"""The probe `cpu`: archspec is the oracle, its own host files are the hosts.

Each of those files is the /proc/cpuinfo of a real machine's first processor; its name ends in what
the machine is. Those of macOS and Windows hold what sysctl and CPUID say: no Linux has them.
"""

from __future__ import annotations

import io
import random
import time
from pathlib import Path

import pytest
from host_tree import look, recorded, unknown, write
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_cmeta import vocabulary
from slurm_cmeta.node import NONE, Found, architecture, cpu
from slurm_cmeta.node.cpuinfo import PATH, CpuInfo
from slurm_cmeta.vocabulary import cpu_flags

archspec = pytest.importorskip(
    "archspec.cpu", reason="archspec (pip, with its tests) is the oracle"
)
TARGETS = Path(archspec.__file__).parents[1] / "json/tests/targets"
FILES = [f for f in sorted(TARGETS.glob("*-*-*")) if not f.name.startswith(("darwin", "windows"))]
UNKNOWN_KEYS = ("cpu", "cpu.level", "cpu.ancestors", "isa")


def probed(root: Path, text: str | bytes, machine: str = "") -> Found:
    """Return what is found of a host with this /proc/cpuinfo, of which `uname -m` was recorded."""
    write(root, {PATH: text, **(recorded("uname -m", machine) if machine else {})})
    return look(root, architecture, cpu)


def oracle(text: str, family: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what archspec itself calls a host with this /proc/cpuinfo."""
    from archspec.cpu import detect

    monkeypatch.setattr(detect, "_machine", lambda: family)
    monkeypatch.setattr(detect, "open", lambda _: io.StringIO(text), raising=False)
    detect.host.cache_clear()
    return str(detect.host())


def x86(flags: str, vendor: str = "GenuineIntel", number: int = 0) -> str:
    """One processor as arch/x86/kernel/cpu/proc.c prints it."""
    return (
        f"processor\t: {number}\nvendor_id\t: {vendor}\ncpu family\t: 6\nmodel\t\t: 85\n"
        f"model name\t: A CPU @ 2.00GHz\nflags\t\t: {flags}\nvmx flags\t: vnmi\nbugs\t\t:\n\n"
    )


def arm(flags: str, implementer: str = "0x41", part: str = "0xd0c", number: int = 0) -> str:
    """One processor as arch/arm64/kernel/cpuinfo.c prints it."""
    return (
        f"processor\t: {number}\nBogoMIPS\t: 50.00\nFeatures\t: {flags}\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x3\n"
        f"CPU part\t: {part}\nCPU revision\t: 1\n\n"
    )


def flags(target: str) -> str:
    return " ".join(sorted(cpu_flags.flags_of(target) | {"lm", "sse2"}))


def file_named(target: str) -> str:
    found = [f for f in FILES if f.name.endswith(f"-{target}")]
    if not found:
        pytest.skip(f"archspec ships no host file of {target}")
    return found[0].read_text()


def test_archspec_ships_its_host_files() -> None:
    if not TARGETS.is_dir():
        pytest.skip(f"archspec was installed without its host files: no {TARGETS}")
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_archspecs_hosts_are_named_as_archspec_names_them(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = file.name.split("-", 2)[2]
    target = archspec.TARGETS[name]
    family = str(target.family)
    text = file.read_text()
    # Byte order is not in the file; everything else comes from it alone.
    found = probed(tmp_path, text, family if "ppc64" in family else "")
    assert oracle(text, family, monkeypatch) == name
    assert found.value("arch") == family
    assert found.value("cpu") == name
    assert found.value("cpu.level") == str(target.generic)
    ancestors = sorted(a.name for a in target.ancestors)
    listed = (found.value("cpu.ancestors") or "").split()
    if target.vendor == "generic":  # a masked machine: the named ones that it fits are there, too
        assert set(ancestors) <= set(listed)
    else:
        assert listed == ancestors
    if target.vendor != "generic":
        assert found.value("cpu.vendor") == target.vendor
    assert found.value("cpu.model")
    assert not found.warnings
    assert not found.unknown


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_with_any_flags_hidden_archspec_and_we_agree(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hypervisor hides flags: whichever, no more is claimed than archspec claims."""
    text = file.read_text()
    info = CpuInfo(text)
    family = info.family()
    if family not in ("x86_64", "aarch64"):
        pytest.skip("no flags there")
    key = "flags" if family == "x86_64" else "Features"
    listed = sorted(info.flags(key)[0])
    chance = random.Random(file.name)  # noqa: S311
    for _ in range(25):
        hidden = set(chance.sample(listed, chance.randint(1, 8))) - {"lm", "sse2", "asimd"}
        kept = [flag for flag in listed if flag not in hidden]
        masked = "".join(
            f"{key} : {' '.join(kept)}\n" if line.startswith(key) else line
            for line in text.splitlines(keepends=True)
        )
        theirs = oracle(masked, family, monkeypatch)
        found = probed(tmp_path, masked)
        if family == "x86_64" or theirs != "aarch64":
            assert found.value("cpu") == theirs, sorted(hidden)
        else:  # where archspec only says aarch64, the flags may show more
            assert found.value("cpu") in (theirs, *vocabulary.load("cpu_hosts")["arm_levels"])
        if family == "x86_64":
            shown = set(kept) | {"sse3"}
            names = [found.value("cpu") or "", *(found.value("cpu.ancestors") or "").split()]
            assert all(cpu_flags.flags_of(name) <= shown for name in names)


@pytest.mark.parametrize(
    ("lacks", "level"),
    [
        ("", "x86_64_v4"),
        ("avx512vl", "x86_64_v3"),
        ("abm", "x86_64_v2"),  # lzcnt would silently be bsr
        ("movbe", "x86_64_v2"),
        ("xsave", "x86_64_v2"),
        ("lahf_lm", "x86_64"),
        ("ssse3", "x86_64"),
    ],
)
def test_one_flag_missing_lowers_the_level(lacks: str, level: str, tmp_path: Path) -> None:
    shown = " ".join(f for f in flags("x86_64_v4").split() if f != lacks)
    found = probed(tmp_path, x86(shown, "NewChips Inc"))
    assert found.value("cpu") == found.value("cpu.level") == level


def test_a_vendor_that_archspec_does_not_know_gets_levels_only(tmp_path: Path) -> None:
    """Hygon's Dhyana is a zen by another name: archspec calls it by its level."""
    found = probed(tmp_path, x86(flags("zen"), "HygonGenuine"))
    assert found.value("cpu") == "x86_64_v3"
    assert found.value("cpu.ancestors") == "x86_64 x86_64_v2"
    assert found.value("cpu.vendor") == "HygonGenuine"


def test_the_flags_are_sorted_and_pni_is_sse3(tmp_path: Path) -> None:
    found = probed(tmp_path, x86("pni lm sse2 avx sse avx"))
    assert found.value("isa") == "avx lm pni sse sse2 sse3"
    assert found.value("cpu") == "x86_64"
    assert [f.value for f in found.facts if f.key == "cpu.ancestors"] == [NONE]


def test_of_processors_that_differ_what_all_have_counts(tmp_path: Path) -> None:
    text = x86(flags("skylake_avx512")) + x86(flags("haswell"), number=1)
    found = probed(tmp_path, text)
    assert found.value("cpu") == "haswell"
    assert "avx512f" not in (found.value("isa") or "").split()
    assert len(found.warnings) == 1
    assert "avx512" in found.warnings[0]
    assert probed(tmp_path, x86(flags("haswell")) + text).value("cpu") == "haswell"


def test_of_makers_that_differ_the_level_counts(tmp_path: Path) -> None:
    text = x86(flags("zen2"), "AuthenticAMD") + x86(flags("zen2"), "GenuineIntel", 1)
    found = probed(tmp_path, text)
    assert found.value("cpu") == "x86_64_v3"
    assert "2 kinds" in found.warnings[0]


def test_big_little(tmp_path: Path) -> None:
    """RK3399: two Cortex-A72 and four Cortex-A53, of which archspec knows the A72."""
    a53 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
    found = probed(tmp_path, arm(a53, part="0xd03") + arm(a53, part="0xd08", number=4))
    assert found.value("cpu") == "cortex_a72"
    few = probed(tmp_path, arm("fp asimd", part="0xd03") + arm(a53, part="0xd08", number=4))
    assert few.value("cpu") == "aarch64"


@pytest.mark.parametrize(
    ("implementer", "target", "name", "others"),
    [
        # Azure's Cobalt 100 is a neoverse_n2 with Microsoft's own implementer code.
        ("0x6d", "neoverse_n2", "armv8.2a", "aarch64 armv8.1a"),
        # Kunpeng 920: HiSilicon is known to archspec, none of its parts is.
        ("0x48", "neoverse_n1", "armv8.2a", "aarch64 armv8.1a"),
        ("0x6d", "cortex_a72", "aarch64", NONE),
        ("0x41", "neoverse_n1", "neoverse_n1", "aarch64 armv8.1a armv8.2a cortex_a72"),
    ],
)
def test_an_arm_cpu_that_archspec_does_not_know_gets_the_revision_that_its_flags_show(
    implementer: str, target: str, name: str, others: str, tmp_path: Path
) -> None:
    shown = " ".join(sorted(cpu_flags.flags_of(target)))
    found = probed(tmp_path, arm(shown, implementer, "0xfff"))
    assert found.value("cpu") == name
    assert [f.value for f in found.facts if f.key == "cpu.ancestors"] == [others]


def test_a_known_arm_part_is_what_archspec_says_of_it(tmp_path: Path) -> None:
    shown = " ".join(sorted(cpu_flags.flags_of("cortex_a72") | {"atomics", "asimdrdm", "dcpop"}))
    found = probed(tmp_path, arm(shown, part="0xd08"))
    assert (found.value("cpu"), found.value("cpu.level")) == ("cortex_a72", "aarch64")
    found = probed(tmp_path, arm(shown, part="0xd05"))  # Cortex-A55
    assert (found.value("cpu"), found.value("cpu.level")) == ("cortex_a72", "armv8.2a")
    assert found.value("cpu.ancestors") == "aarch64 armv8.1a armv8.2a"


def test_armv9_counts_before_armv8_6(tmp_path: Path) -> None:
    shown = " ".join(sorted(cpu_flags.flags_of("olympus")))
    found = probed(tmp_path, arm(shown.replace(" wfxt", ""), "0x99"))
    assert found.value("cpu.level") == "armv9.0a"
    assert "armv8.6a" in (found.value("cpu.ancestors") or "").split()


@pytest.mark.parametrize(
    ("line", "machine", "name", "vendor"),
    [
        ("POWER9 (raw), altivec supported", "ppc64le", "power9le", "IBM"),
        ("POWER9, altivec supported", "ppc64", "power9", "IBM"),
        ("Power11 (architected), altivec supported", "ppc64le", "power10le", "IBM"),
        ("Power11 (raw), altivec supported", "ppc64le", "power10le", "IBM"),
        ("POWER8E (raw), altivec supported", "ppc64le", "power8le", "IBM"),
        ("POWER5 (gr)", "ppc64", "ppc64", "IBM"),
    ],
)
def test_power(line: str, machine: str, name: str, vendor: str | None, tmp_path: Path) -> None:
    found = probed(tmp_path, f"processor\t: 0\ncpu\t\t: {line}\nclock\t\t: 3800MHz\n", machine)
    assert found.value("cpu") == name
    assert found.value("cpu.level") == machine
    assert found.value("cpu.vendor") == vendor
    known = "vsx" in (found.value("isa") or "")
    assert known == (machine == "ppc64le" or name == "power9")


@pytest.mark.parametrize(
    "lines",
    [
        "cpu\t\t: PPC970MP, altivec supported",
        "cpu\t\t: Power (architected), altivec supported",
        "cpu\t\t: POWER99999",
        "cpu\t\t: POWER9 (raw)\n\nprocessor\t: 1\ncpu\t\t: unknown (00000000)",
        "\n".join(f"cpu\t\t: POWER9 ({n})" for n in range(cpu.MAX_KINDS + 1)),
    ],
)
@pytest.mark.parametrize("machine", ["ppc64le", "ppc64"])
def test_a_power_of_no_known_generation_is_unknown(
    lines: str, machine: str, tmp_path: Path
) -> None:
    found = probed(tmp_path, f"processor\t: 0\n{lines}\n", machine)
    assert found.value("arch") == machine
    for key in ("cpu", "cpu.level", "cpu.ancestors"):
        assert "nothing that tells a CPU" in unknown(found, key)


@pytest.mark.parametrize(
    ("lines", "name", "isa"),
    [
        ("isa\t: rv64imafdc\nmmu\t: sv39\nuarch\t: sifive,u74-mc", "u74mc", "a c d f i m"),
        ("isa\t: rv64imac_zba_zbb\nmmu\t: sv48", "riscv64", "a c i m zba zbb"),
        ("isa\t: rv64imac\nhart isa\t: rv64imacv\nuarch\t: x,y", "riscv64", "a c i m v"),
    ],
)
def test_riscv(lines: str, name: str, isa: str, tmp_path: Path) -> None:
    found = probed(tmp_path, f"processor\t: 0\nhart\t: 1\n{lines}\n")
    assert (found.value("arch"), found.value("cpu")) == ("riscv64", name)
    assert found.value("isa") == isa


def test_other_architectures_are_their_family(tmp_path: Path) -> None:
    """s390: arch/s390/kernel/processor.c prints what is common at the top."""
    text = "vendor_id       : IBM/S390\n# processors    : 2\nfeatures\t: esan3 zarch vx\n"
    found = probed(tmp_path, text)
    assert (found.value("arch"), found.value("cpu")) == ("s390x", "s390x")
    assert found.value("cpu.level") == "s390x"
    assert found.value("isa") == "esan3 vx zarch"


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("", "x86_64"),
        ("\n\n\n", "aarch64"),
        ("flags\nflags no colon\n: : :\n", "x86_64"),
        ("vendor_id : GenuineIntel\n", "x86_64"),
        ("vendor_id : GenuineIntel\nflags :\n", "x86_64"),
        ("flags : \x00\x01\x02 \ufffd\ufffd\n", "x86_64"),
        ("flags : fpu vme de\n", "x86_64"),  # no x86_64 is without SSE2
        ("CPU implementer : 0x41\n", "aarch64"),
        ("Features : crc32\nCPU implementer : 0x41\n", "aarch64"),
        ("processor : 0\n", "ppc64le"),
        ("processor : 0\n", "riscv64"),
        (arm("fp asimd"), "x86_64"),  # a container's emulation shows the wrong file
        (x86("lm sse2"), "aarch64"),
    ],
)
def test_what_tells_nothing_is_unknown_and_not_the_lowest(
    text: str, machine: str, tmp_path: Path
) -> None:
    found = probed(tmp_path, text, machine)
    assert found.value("arch") == machine
    for key in UNKNOWN_KEYS:
        assert PATH in unknown(found, key)


def test_no_file_is_unknown(tmp_path: Path) -> None:
    found = look(tmp_path, architecture, cpu)
    for key in ("arch", *cpu.KEYS):
        assert "/proc/cpuinfo: not there" in unknown(found, key)


def test_an_unreadable_file_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "proc/cpuinfo").mkdir(parents=True)
    found = look(tmp_path, architecture, cpu)
    for key in ("arch", *cpu.KEYS):
        assert "Is a directory" in unknown(found, key)


def test_what_the_file_says_of_itself_is_cleaned(tmp_path: Path) -> None:
    text = x86("lm sse2 \x1b[31m ;rm " + "a" * 99).replace("A CPU", "A\x1b[2J" + "B" * 500)
    found = probed(tmp_path, text)
    assert found.value("isa") == "lm sse2"
    model = found.value("cpu.model") or ""
    assert model.isprintable()
    assert len(model) <= 110


def test_a_thousand_kinds_of_processors_are_none(tmp_path: Path) -> None:
    shown = " ".join(sorted(cpu_flags.flags_of("neoverse_n1")))
    found = probed(tmp_path, "".join(arm(shown, part=f"0x{n:x}", number=n) for n in range(1000)))
    assert found.value("cpu") == "armv8.2a"
    assert "1000 kinds" in found.warnings[0]


def test_a_thousand_processors_take_no_time(tmp_path: Path) -> None:
    shown = flags("zen5") + " " + " ".join(f"flag{n}" for n in range(200))
    text = "".join(
        x86(shown, "AuthenticAMD", n) + f"cpu MHz : {2000 + n}\napicid : {n}\n" for n in range(1024)
    )
    assert len(text) > 2_000_000
    seconds = []
    for _ in range(5):
        start = time.process_time()
        found = probed(tmp_path, text)
        seconds.append(time.process_time() - start)
        assert found.value("cpu") == "zen5"
    assert min(seconds) < 0.05, seconds  # writing the file is in it


def test_the_same_host_gives_the_same_twice(tmp_path: Path) -> None:
    text = x86(flags("zen4"), "AuthenticAMD") + x86(flags("zen3"), "AuthenticAMD", 1)
    assert vars(probed(tmp_path, text)) == vars(probed(tmp_path, text))


_LINE = st.one_of(
    st.text(max_size=60),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(
            (
                *("flags", "Features", "vendor_id", "CPU implementer", "CPU part"),
                *("CPU architecture", "cpu", "isa", "hart isa", "uarch", "model name"),
                *("features", "fdiv_bug"),
            )
        ),
        st.sampled_from(["\t: ", ":", " "]),
        st.one_of(st.text(max_size=40), st.sampled_from(["POWER99999", "rv64", "lm sse2", "0x41"])),
    ),
)


@given(st.lists(_LINE, max_size=12), st.sampled_from(["", "x86_64", "aarch64", "ppc64", "riscv64"]))
@settings(max_examples=150, deadline=None)
def test_no_file_makes_it_fail(lines: list[str], machine: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        text = "\n".join(lines).encode("utf-8", "replace")
        found = probed(Path(root), text, machine)
    answered = {f.key for f in found.facts} | {u.key for u in found.unknown}
    assert answered >= {"arch", *cpu.KEYS}
    for fact in found.facts:
        assert fact.value.isprintable()
