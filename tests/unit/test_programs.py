"""What the image's own programs tell: architecture, CPU level, C library, kernel, page size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from elf_files import GLIBC, elf
from memory_tree import MemoryContent, MemoryImage

from slurm_cmeta import evidence, requirement
from slurm_cmeta.evidence.subject import Subject
from slurm_cmeta.facts import DECLARED, OBSERVED, Fact
from slurm_cmeta.image import Image
from slurm_cmeta.image.content import Stated

LOADER = "/lib64/ld-linux-x86-64.so.2"


def program(**more: Any) -> bytes:
    more = {"interpreter": LOADER, "needed": ("libc.so.6",), "kernel": (3, 2, 0), **more}
    return elf(**more)


def system(**files: Any) -> dict[str, bytes | str]:
    return {
        "lib64/ld-linux-x86-64.so.2": elf(soname="ld-linux-x86-64.so.2"),
        "usr/lib/x86_64-linux-gnu/libc.so.6": GLIBC,
        "bin/sh": "->dash",
        "bin/dash": program(),
        **files,
    }


class Read:
    def __init__(
        self,
        files: Mapping[str, bytes | str],
        *,
        architectures: tuple[Stated, ...] = (),
        **more: Any,
    ) -> None:
        content = MemoryContent(files, **more)
        content.architectures = architectures
        self.image = MemoryImage(content)
        self.facts = evidence.read(cast(Image, self.image)).facts
        self.warnings = list(self.image.warnings)
        self.requires = requirement.from_facts(self.facts)

    def of(self, key: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.key == key]

    def value(self, key: str) -> str | None:
        return next((fact.value for fact in self.of(key)), None)

    def needs(self, key: str) -> list[tuple[str, str, str]]:
        return [(r.op, r.value, r.strength) for r in self.requires if r.key == key]


def subject(files: Mapping[str, bytes | str], **more: Any) -> Subject:
    found = Subject(cast(Image, MemoryImage(MemoryContent(files, **more))))
    found.family = "x86_64"
    return found


# --- which programs are looked at ---------------------------------------------------------------


def roles(found: Subject) -> dict[str, str]:
    return {binary.entry.path: binary.role for binary in found.programs()}


def test_shell_loader_and_libc() -> None:
    assert roles(subject(system())) == {
        "/bin/dash": "shell",
        "/lib64/ld-linux-x86-64.so.2": "loader",
        "/usr/lib/x86_64-linux-gnu/libc.so.6": "libc",
    }


@pytest.mark.parametrize(
    "how",
    [
        {"words": ("/opt/app/bin/app", "--serve")},
        {"words": ("app",), "environment": {"PATH": "/none:/opt/app/bin:/bin"}},
        {"script": '#!/bin/sh\n\nexec /opt/app/bin/app "$@"\n'},
        {"script": "FOO='x'\n/usr/bin/env -i FOO=1 /opt/app/bin/app\n"},
        {"words": ("run",), "environment": {"PATH": "/scripts"}},
    ],
)
def test_what_the_image_starts(how: dict[str, Any]) -> None:
    files = system(**{"opt/app/bin/app": program(), "scripts/run": "#! /opt/app/bin/app -x\n"})
    assert roles(subject(files, **how))["/opt/app/bin/app"] == "program"


def test_env_finds_the_interpreter_of_a_script() -> None:
    files = system(**{"usr/bin/python3": program(), "app/run.py": "#!/usr/bin/env python3\n"})
    assert roles(subject(files, words=("/app/run.py",)))["/usr/bin/python3"] == "interpreter"
    files["opt/conda/bin/python"] = program()
    files["app/run.py"] = "#!/opt/conda/bin/python\n"
    assert roles(subject(files, words=("/app/run.py",)))["/opt/conda/bin/python"] == "program"


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (("/sbin/tini", "--", "/opt/app/run"), ""),
        (("mpirun", "-np", "4", "/opt/app/run"), ""),
        (("timeout", "60", "run"), ""),
        ((), "mkdir -p /x\ndate\nexec /opt/app/run\n"),
        ((), "cd /opt/app && ./run\n"),
        ((), "cd /opt/app\n./run\n"),
        ((), 'exec "$APP/run"\n'),
        ((), ". /etc/profile; exec ${APP}/run\n"),
        (("/entry.sh",), ""),
        (("/outer.sh",), ""),
    ],
)
def test_launchers_and_scripts_are_followed(words: tuple[str, ...], script: str) -> None:
    files = system(
        **{
            "opt/app/run": program(),
            "sbin/tini": program(),
            "usr/bin/mpirun": program(),
            "usr/bin/timeout": program(),
            "bin/mkdir": program(),
            "bin/date": program(),
            "entry.sh": '#!/bin/sh\nset -e\nexec /opt/app/run "$@"\n',
            "outer.sh": "#!/bin/sh\n/entry.sh\n",
            "loop.sh": "#!/bin/sh\n/loop.sh\n",
        }
    )
    environment = {"APP": "/opt/app", "PATH": "/opt/app:/usr/bin:/bin"}
    found = roles(subject(files, words=words, script=script, environment=environment))
    assert [path for path, role in found.items() if role == "program"] == ["/opt/app/run"]


def test_scripts_that_start_each_other_end() -> None:
    files = system(**{"loop.sh": "#!/bin/sh\n/loop.sh\n/loop.sh\n"})
    found = roles(subject(files, words=("/loop.sh",)))
    assert found["/bin/dash"] == "interpreter"


def test_a_few_applications() -> None:
    files = system(**{f"opt/a{n}/bin/tool": program() for n in range(20)})
    files["usr/local/bin/own"] = program()
    files["usr/local/bin/script"] = "#!/bin/sh\n"
    found = [path for path, role in roles(subject(files)).items() if role == "application"]
    assert found[0] == "/usr/local/bin/own"
    assert len(found) == 6


def test_libraries_as_the_loader_finds_them() -> None:
    files = system(
        **{
            "opt/mpi/lib/libmpi.so.40": "->libmpi.so.40.30.4",
            "opt/mpi/lib/libmpi.so.40.30.4": elf(soname="libmpi.so.40"),
            "env/lib/libx.so.1": elf(soname="libx.so.1"),
            "usr/lib64/libx.so.1": elf(soname="libx.so.1"),
            "own/lib/libx.so.1": elf(soname="libx.so.1"),
        }
    )
    found = subject(files, environment={"LD_LIBRARY_PATH": "$X:/none:/env/lib:"})
    mpi = found.libraries()["libmpi.so.40"]
    assert mpi == "/opt/mpi/lib/libmpi.so.40"
    entry = found.library("libx.so.1")
    assert entry is not None
    assert entry.path == "/env/lib/libx.so.1"
    asking = next(b for b in found.programs() if b.role == "shell")
    assert found.library("libc.so.6", asking) is not None
    assert found.library("../x") is found.library("libnone.so") is None


def test_the_search_path_of_the_file_that_asks() -> None:
    files = system(
        **{
            "opt/app/bin/app": program(runpath="$ORIGIN/../lib:/none:relative:$LIB/x"),
            "opt/app/lib/libx.so.1": elf(),
            "env/libx.so.1": elf(),
        }
    )
    for environment, path in (({}, "/opt/app/lib"), ({"LD_LIBRARY_PATH": "/env"}, "/env")):
        found = subject(files, environment=environment)
        asking = next(b for b in found.programs() if b.entry.path == "/opt/app/bin/app")
        entry = found.library("libx.so.1", asking)
        assert entry is not None
        assert entry.path == f"{path}/libx.so.1"


@pytest.mark.parametrize(
    ("script", "sure"),
    [
        ("exec /a\n", ["/a"]),
        ("/a --version\nexec /b\n", ["/a", "/b"]),
        ("if [ -e /dev/nvidia0 ]; then\n  exec /a\nelse\n  exec /b\nfi\n", []),
        ("if [ -e /x ]; then exec /a; fi\nexec /b\n", []),
        ("[ -e /x ] && exec /a\nexec /b\n", []),
        ("case $1 in\n x) exec /a;;\nesac\nexec /b\n", []),
        ("if [ -e /x ]; then\n  echo hi\nfi\nexec /b\n", ["/b"]),
        ("OCI_ENTRYPOINT='\"/a\" \"-x\"'\nOCI_CMD=''\nif x; then exec /b; fi\n", ["/a"]),
    ],
)
def test_only_what_surely_starts_is_the_image_s_program(script: str, sure: list[str]) -> None:
    found = subject(system(a=program(), b=program()), script=script)
    programs = [path for path, role in roles(found).items() if role == "program"]
    assert programs == sure


# --- architecture -------------------------------------------------------------------------------


def test_the_programs_are_believed_and_not_the_codes() -> None:
    read = Read(
        {"bin/sh": elf("aarch64")},
        architectures=(Stated("amd64", "SIF header"),),
        labels={"org.label-schema.build-arch": "amd64"},
    )
    assert read.of("arch") == [Fact("arch", "aarch64", "ELF header of /bin/sh", OBSERVED)]
    assert read.warnings == [
        "the SIF header says amd64, the ELF header of /bin/sh says aarch64: "
        "the SIF header is ignored",
        "label org.label-schema.build-arch says amd64, the ELF header of /bin/sh says aarch64: "
        "the label is ignored",
    ]


def test_without_programs_the_codes_serve() -> None:
    read = Read({"etc/hi": "x"}, architectures=(Stated("arm64", "SIF header"),))
    assert read.of("arch") == [Fact("arch", "aarch64", "SIF header", DECLARED)]
    assert read.warnings == []


def test_the_image_s_own_program_comes_first() -> None:
    read = Read({"bin/sh": elf("aarch64"), "app": elf("x86_64")}, words=("/app",))
    assert read.value("arch") == "x86_64"
    assert read.warnings == [
        "/bin/sh is for aarch64, /app for x86_64: the image is taken to be for x86_64"
    ]


def test_a_32_bit_program_in_a_64_bit_system() -> None:
    for files, words in (
        ({"bin/sh": elf("x86_64"), "app": elf("x86")}, ("/app",)),
        ({"bin/sh": elf("x86"), "app": elf("x86_64")}, ("/app",)),
    ):
        read = Read(files, words=words)
        assert read.value("arch") == "x86_64"
        assert read.warnings == []


@pytest.mark.parametrize("family", ["x86", "ppc64le", "ppc64", "riscv64", "s390x", "loongarch64"])
def test_every_family(family: str) -> None:
    read = Read({"bin/sh": elf(family)})
    assert read.value("arch") == family


# --- CPU level ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isa", "level"), [(1, None), (3, "x86_64_v2"), (7, "x86_64_v3"), (15, "x86_64_v4")]
)
def test_the_isa_note_of_the_shell_is_required(isa: int, level: str | None) -> None:
    read = Read(system(**{"bin/dash": program(isa=isa)}))
    if level is None:
        assert read.of("cpu") == []
    else:
        assert read.of("cpu") == [Fact("cpu", level, "ISA note of /bin/dash", OBSERVED)]
        assert read.needs("cpu") == [(">=", level, "hard")]


def test_an_image_published_as_plain_amd64_that_is_v3_throughout() -> None:
    v3 = program(isa=7)
    read = Read(
        system(**{"bin/dash": v3, "usr/lib/x86_64-linux-gnu/libc.so.6": elf(isa=7)}),
        architectures=(Stated("amd64", "image configuration"),),
        labels={"org.opencontainers.image.architecture": "amd64"},
    )
    assert read.needs("cpu") == [(">=", "x86_64_v3", "hard")]
    assert read.requires[1].evidence == OBSERVED


def test_what_one_of_several_applications_notes_is_a_wish() -> None:
    tools = {"opt/a/bin/a": program(isa=15), "opt/a/bin/b": program()}
    assert Read(system(**tools)).needs("cpu") == [(">=", "x86_64_v4", "soft")]
    tools["opt/a/bin/b"] = program(isa=15)
    assert Read(system(**tools)).needs("cpu") == [(">=", "x86_64_v4", "hard")]


def test_a_wish_does_not_hide_a_need() -> None:
    files = system(**{"opt/a/bin/a": program(isa=7), "opt/a/bin/b": program()})
    files["lib64/ld-linux-x86-64.so.2"] = elf(isa=7)
    assert Read(files).needs("cpu") == [(">=", "x86_64_v3", "hard")]


def test_the_note_of_another_architecture_says_nothing() -> None:
    assert Read({"bin/sh": elf("aarch64", isa=7)}).of("cpu") == []


def test_glibc_hwcaps_are_no_requirement() -> None:
    hwcaps = "usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-v3/libm.so.6"
    assert Read(system(**{hwcaps: elf(isa=7)})).of("cpu") == []


@pytest.mark.parametrize(
    ("architecture", "variant", "family", "target"),
    [
        ("amd64", "v3", "x86_64", "x86_64_v3"),
        ("amd64", "v1", "x86_64", None),
        ("arm64", "v8", "aarch64", None),
        ("arm64", "v8.2", "aarch64", "armv8.2a"),
        ("ppc64le", "power9", "ppc64le", "power9le"),
        ("amd64", "v3", "aarch64", None),
    ],
)
def test_the_platform_s_variant(
    architecture: str, variant: str, family: str, target: str | None
) -> None:
    stated = Stated(architecture, "image configuration", variant)
    read = Read({"bin/sh": elf(family)}, architectures=(stated,))
    assert read.value("cpu") == target
    if target:
        assert read.of("cpu") == [Fact("cpu", target, "image configuration", DECLARED)]


def test_an_unknown_variant_is_named() -> None:
    stated = Stated("amd64", "image configuration", "v9\x1b")
    read = Read({"bin/sh": elf()}, architectures=(stated,))
    assert read.of("cpu") == []
    assert read.warnings == [
        "the image configuration says amd64/v9\\x1b, which is no platform known here: ignored"
    ]


# --- C library, kernel, page size ---------------------------------------------------------------


def test_glibc_and_what_is_asked_of_it() -> None:
    app = program(
        asked={"libc.so.6": ("GLIBC_2.4", "GLIBC_2.34", "GLIBC_ABI_DT_RELR", "GLIBC_2.9")}
    )
    read = Read(system(**{"usr/local/bin/app": app}))
    assert read.value("libc") == "glibc"
    assert read.value("glibc") == "2.36"
    assert read.value("glibc.needed") == "2.34"
    assert read.warnings == []
    assert read.needs("glibc") == []


def test_a_program_that_asks_for_more_than_the_image_has() -> None:
    app = program(asked={"libc.so.6": ("GLIBC_2.38",)})
    read = Read(system(app=app), words=("/app",))
    assert read.warnings == [
        "/app asks for glibc 2.38, the image has 2.36: it cannot start in this image"
    ]


def test_musl() -> None:
    musl = "/lib/ld-musl-x86_64.so.1"
    for files in ({musl: elf()}, {}):
        read = Read({"bin/sh": elf(interpreter=musl), **files})
        assert (read.value("libc"), read.value("glibc")) == ("musl", None)


@pytest.mark.parametrize(
    ("records", "value"),
    [
        ("C:Q1\nP:alpine-baselayout\nV:3.4\n\nC:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\n", "1.2.4"),
        ("P:musl-utils\nV:9.9-r1\n", None),
        ("P:musl\nV:\x1b[1m\n", None),
        ("P:musl\n\n\n::::\n", None),
    ],
)
def test_the_version_of_musl(records: str, value: str | None) -> None:
    musl = "/lib/ld-musl-x86_64.so.1"
    files: dict[str, bytes | str] = {"bin/sh": elf(interpreter=musl), musl: elf()}
    assert Read({**files, "lib/apk/db/installed": records}).value("musl") == value


def test_the_newest_kernel_asked_for() -> None:
    read = Read(system(**{"usr/local/bin/app": program(kernel=(4, 10, 0))}))
    assert read.needs("kernel") == [(">=", "3.2.0", "hard"), (">=", "4.10.0", "soft")]
    assert read.of("kernel")[1].source == "ABI note of /usr/local/bin/app"
    read = Read(system(app=program(kernel=(4, 10, 0))), words=("/app",))
    assert read.needs("kernel") == [(">=", "4.10.0", "hard")]
    foreign = elf("aarch64", kernel=(5, 0, 0), alignment=4096)
    read = Read(system(**{"usr/local/bin/helper": foreign}))
    assert read.needs("kernel") == [(">=", "3.2.0", "hard")]
    assert Read({"bin/sh": elf(kernel=(5000, 1, 1))}).of("kernel") == []


@pytest.mark.parametrize(
    ("family", "alignments", "needs"),
    [
        ("aarch64", (65536, 4096), [("<=", "65536", "hard"), ("<=", "4096", "soft")]),
        ("aarch64", (4096, 65536), [("<=", "4096", "hard")]),
        ("ppc64le", (65536, 65536), [("<=", "65536", "hard")]),
        ("aarch64", (65536, 3), [("<=", "65536", "hard")]),
        ("x86_64", (4096, 0x200000), []),
        ("s390x", (4096, 4096), []),
    ],
)
def test_page_size(family: str, alignments: tuple[int, int], needs: list[Any]) -> None:
    files = {
        "bin/sh": elf(family, alignment=alignments[0]),
        "usr/local/bin/app": elf(family, alignment=alignments[1]),
    }
    assert Read(files).needs("page") == needs


def test_glibc_is_a_wish_only_where_host_libraries_come_in() -> None:
    facts = [Fact("glibc", "2.31", "x"), Fact("gpu", "nvidia", "x")]
    assert [(r.key, r.op, r.value, r.strength) for r in requirement.from_facts(facts)] == [
        ("gpu", "=", "nvidia", "hard"),
        ("glibc", "<=", "2.31", "soft"),
    ]
    assert requirement.from_facts(facts[:1]) == []
