"""SIF files with a real squashfs in them: what is read from the metadata, what from the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from elf_files import elf
from sif_files import Part, build, metadata, need_tools, partition, raw_json, run

from slurm_cmeta import config
from slurm_cmeta.image import metadata as metadata_module
from slurm_cmeta.image import open_image
from slurm_cmeta.submission import ImageReport, read_image


def packed(work: Path, files: Mapping[str, bytes | str]) -> bytes:
    need_tools()
    tree = work / "tree"
    for path, content in files.items():
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        place.chmod(0o755)
    run("mksquashfs", tree, work / "x.squashfs", "-noappend", "-quiet", "-no-progress")
    return (work / "x.squashfs").read_bytes()


OLD: dict[str, bytes | str] = {
    "bin/sh": elf("aarch64"),
    ".singularity.d/labels.json": json.dumps({"cpu.target": "neoverse_v1", "x": "y"}),
    ".singularity.d/runscript": "#!/bin/sh\nexec /opt/app\n",
    ".singularity.d/env/10-docker2singularity.sh": (
        'export PATH="/opt/bin:/bin"\nexport CUDA_VERSION="${CUDA_VERSION:-"12.4"}"\n'
    ),
    ".singularity.d/env/90-environment.sh": "#!/bin/sh\nexport MODE='plain text'\n",
    "opt/app": elf("aarch64", alignment=65536),
}


def report(path: Path) -> ImageReport:
    return read_image(str(path), config.defaults())


def test_images_of_singularity_3_0_to_3_6_have_their_labels_inside(tmp_path: Path) -> None:
    path = tmp_path / "old.sif"
    path.write_bytes(build(partition(b"04", data=packed(tmp_path, OLD)), arch=b"04"))
    known = report(path)
    assert known.labels == {"cpu.target": "neoverse_v1", "x": "y"}
    assert [(r.key, r.value, r.evidence) for r in known.requirements] == [
        ("arch", "aarch64", "observed"),
        ("cpu", "neoverse_v1", "declared"),
        ("gpu", "nvidia", "declared"),
        ("cuda", "12.4", "declared"),
        ("page", "4096", "observed"),
    ]
    assert known.warnings == []
    with open_image(str(path)) as image:
        assert image.environment() == {
            "PATH": "/opt/bin:/bin",
            "CUDA_VERSION": "12.4",
            "MODE": "plain text",
        }
        assert image.run().script.endswith("exec /opt/app\n")


def test_the_metadata_objects_come_first(tmp_path: Path) -> None:
    attributes = {
        "labels": {"a": "clear"},
        "environment": {"/.singularity.d/env/90-environment.sh": "export MODE=clear\n"},
        "runscript": "exec /bin/sh\n",
    }
    document = json.dumps({"data": {"attributes": attributes}, "type": "container"}).encode()
    oci = {"Env": ["CUDA_VERSION=11.8", "bad", 7], "Entrypoint": ["/opt/app"], "Cmd": ["x", 5]}
    path = tmp_path / "new.sif"
    path.write_bytes(
        build(
            raw_json(document),
            raw_json(json.dumps(oci).encode(), "oci-config.json"),
            partition(b"04", data=packed(tmp_path, OLD)),
        )
    )
    with open_image(str(path)) as image:
        assert image.labels() == {"a": "clear"}
        assert image.environment() == {"CUDA_VERSION": "11.8", "MODE": "clear"}
        assert image.run() == ("exec /bin/sh\n", ("/opt/app", "x"))
        assert image.warnings == []


def test_content_wins_over_the_header(tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition(b"02", data=packed(tmp_path, OLD)), arch=b"02"))
    known = report(path)
    assert known.requirements[0].value == "aarch64"
    assert known.warnings[0] == (
        "the SIF partition descriptor 1 says amd64, the ELF header of /opt/app says aarch64: "
        "Apptainer refuses it on aarch64"
    )


def test_a_lone_surrogate_in_the_runscript(tmp_path: Path) -> None:
    document = b'{"data":{"attributes":{"runscript":"exec /\\ud800\\n"}},"type":"container"}'
    path = tmp_path / "img.sif"
    path.write_bytes(build(raw_json(document), partition(b"04", data=packed(tmp_path, OLD))))
    assert report(path).requirements[0].value == "aarch64"


def test_an_overlay_is_named(tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(
        build(
            partition(b"04", data=packed(tmp_path, OLD)),
            partition(b"04", fs=2, kind=4, data=b"ext3"),
            partition(b"04", fs=2, kind=4, data=b"ext3"),
            arch=b"04",
        )
    )
    known = report(path)
    assert known.requirements[0].value == "aarch64"
    assert known.warnings == [
        "SIF partitions 2, 3 lie over the system partition: what they change is not read"
    ]


@pytest.mark.parametrize(
    ("fs", "words"),
    [
        (2, "the ext3 in SIF partition 2 is not read"),
        (4, "the raw in SIF partition 2 is not read"),
        (5, "the encrypted-squashfs in SIF partition 2 is encrypted"),
        (6, "the gocryptfs-squashfs in SIF partition 2 is encrypted"),
    ],
)
def test_what_is_in_clear_is_read_all_the_same(tmp_path: Path, fs: int, words: str) -> None:
    path = tmp_path / "img.sif"
    key = Part(0x4008, b"PEM", "key", link=2)
    path.write_bytes(build(metadata({"cpu.target": "zen3"}), partition(fs=fs), key))
    known = report(path)
    assert [r.value for r in known.requirements if r.key in ("arch", "cpu")] == ["x86_64", "zen3"]
    assert known.warnings == [f"{words}: only header and metadata were looked at"]


def test_a_partition_that_is_no_squashfs_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(metadata({"cpu.target": "zen3"}), partition(data=b"hsqs" + bytes(5000))))
    known = report(path)
    assert [r.value for r in known.requirements] == ["x86_64", "zen3"]
    assert len(known.warnings) == 1
    assert known.warnings[0].startswith("the squashfs in SIF partition 2 cannot be opened: ")


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("export A=plain", "plain"),
        ("A=plain", "plain"),
        ("  export A='one word'", "one word"),
        ('export A="two words"', "two words"),
        (
            'export A="${A:-"cuda>=12.4 brand=tesla,driver>=470"}"',
            "cuda>=12.4 brand=tesla,driver>=470",
        ),
        ('export A="${A:-cuda>=12}"', "cuda>=12"),
        ('export A="a \\"quoted\\" \\$word \\\\ end"', 'a "quoted" $word \\ end'),
        ("export A=", ""),
        ("export A=$B", None),
        ('export A="$B"', None),
        ("export A=`rm x`", None),
        ("export A=$(rm x)", None),
        ("export A=a;b", None),
        ("export A=a b", None),
        ("export A='it'\\''s'", None),
        ("export A-B=x", None),
        ("if [ A=b ]; then", None),
        ("if true; then export A=b; fi", None),
        ("if true\nthen\nexport A=b\nfi", None),
        ("true && export A=b", None),
        ('export A="a\\\\$HOME"', None),
        ('export A="b" "c"', None),
    ],
)
def test_variables_of_a_script(line: str, value: str | None) -> None:
    assert metadata_module.exported(f"#!/bin/sh\n{line}\n").get("A") == value


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("export PATH=/opt/bin:$PATH", "/opt/bin:/usr/bin:/bin"),
        ('export PATH="/opt/bin:${PATH}"', "/opt/bin:/usr/bin:/bin"),
        ("export PATH=$PATH:/opt/bin", "/usr/bin:/bin:/opt/bin"),
        ("export PATH=$HOME/bin:/opt/bin:$PATH", "/opt/bin:/usr/bin:/bin"),
        ('export PATH="/opt/bin${PATH:+:$PATH}"', "/opt/bin:/usr/bin:/bin"),
        ("export PATH=$(rm x):/opt/bin", "/opt/bin"),
    ],
)
def test_lists_of_directories_keep_what_is_plain(line: str, value: str) -> None:
    assert metadata_module.exported(line, {"PATH": "/usr/bin:/bin"})["PATH"] == value
    twice = metadata_module.exported("export PATH=/a\nexport PATH=/b:$PATH\n")
    assert twice == {"PATH": "/b:/a"}
    assert metadata_module.exported("export LD_LIBRARY_PATH=/a:$LD_LIBRARY_PATH") == {
        "LD_LIBRARY_PATH": "/a"
    }


@pytest.mark.parametrize(
    "document",
    [None, [], {}, {"Env": 5}, {"Env": {"a": "b"}}, {"config": []}, {"data": {"attributes": 1}}],
)
def test_metadata_of_another_shape(document: Any) -> None:
    assert metadata_module.oci_environment(document) == {}
    assert metadata_module.script_environment(document) == {}
    assert metadata_module.runscript(document) == ""
    assert metadata_module.entry_point(document) == ()
