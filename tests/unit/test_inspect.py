"""cmeta inspect: what it prints, where, and the exit codes."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sif_files import build, metadata, need_tools, partition, raw_json, real_sif, signature

from slurm_cmeta.cli import inspect

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "schema" / "cmeta.image-1.json").read_text())


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cmeta(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str | Path) -> Result:
        parser = argparse.ArgumentParser(prog="cmeta")
        inspect.add_parser(parser.add_subparsers(required=True))
        args = parser.parse_args(["inspect", *map(str, words)])
        code = args.run(args)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    path = tmp_path / "img.sif"
    path.write_bytes(build(metadata({"cpu.target": "znver4"}), partition(), signature()))
    return path


def check(document: object) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_table(cmeta: Any, sif: Path) -> None:
    result = cmeta(sif)
    assert result.code == 0
    assert result.err == ""
    lines = result.out.splitlines()
    assert lines[0] == str(sif)
    assert lines[1].split() == ["needs", "value", "strength", "evidence", "source"]
    assert lines[2].split(None, 5) == [
        "arch",
        "=",
        "x86_64",
        "hard",
        "declared",
        "SIF partition descriptor 2",
    ]
    assert lines[3].split(None, 5) == ["cpu", ">=", "zen4", "hard", "declared", "label cpu.target"]
    described = {line[:13].strip(): line[13:].strip() for line in lines[4:]}
    assert described["format"] == "sif"
    assert described["file system"] == "squashfs"
    assert described["signed"] == "yes (1 signature(s), not verified)"
    assert described["signer"].startswith("433FE984")
    assert described["built"] == "2023-11-14T22:13:20Z"
    assert described["labels"] == "1"


def test_json_is_the_documented_object(cmeta: Any, sif: Path) -> None:
    document = cmeta("--json", sif).json()
    check(document)
    assert set(document) == set(SCHEMA["required"]) == set(SCHEMA["properties"]) - {"software"}
    assert document["path"] == str(sif)
    assert document["requires"] == [
        {
            "key": "arch",
            "op": "=",
            "value": "x86_64",
            "strength": "hard",
            "evidence": "declared",
            "source": "SIF partition descriptor 2",
        },
        {
            "key": "cpu",
            "op": ">=",
            "value": "zen4",
            "strength": "hard",
            "evidence": "declared",
            "source": "label cpu.target",
        },
    ]
    assert document["labels"] == {"cpu.target": "znver4"}
    assert document["warnings"] == []


def test_real_file_against_the_schema(cmeta: Any, tmp_path: Path) -> None:
    need_tools()
    path = real_sif(
        tmp_path / "img.sif",
        arch="arm64",
        labels={"org.label-schema.build-arch": "amd64", "cpu.target": "neoverse_v1"},
        deffile="Bootstrap: docker\nFrom: debian:12\n",
    )
    document = cmeta("--json", path).json()
    check(document)
    assert [r["value"] for r in document["requires"]] == ["aarch64", "neoverse_v1"]
    assert len(document["warnings"]) == 1


def test_the_schema_refuses_what_is_wrong(cmeta: Any, sif: Path) -> None:
    document = cmeta("--json", sif).json()
    for change in ({"schema": "cmeta.image/2"}, {"format": "zip"}, {"labels": {"a": 1}}):
        with pytest.raises(jsonschema.ValidationError):
            check({**document, **change})
    document["requires"][0]["strength"] = "firm"
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_warnings_go_to_stderr(cmeta: Any, tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(metadata({"cpu.target": "native"}), partition()))
    result = cmeta(path)
    assert result.code == 0
    assert result.err == (
        "cmeta: warning: label cpu.target says native, which is no CPU known here: ignored\n"
    )
    assert "native" not in result.out
    result = cmeta("--json", path)
    assert result.err == ""
    assert len(result.json()["warnings"]) == 1


def test_alternatives_are_shown(cmeta: Any, tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    demand = "cuda>=12.2 brand=tesla,driver>=470,driver<471"
    oci = json.dumps({"Env": [f"NVIDIA_REQUIRE_CUDA={demand}"]}).encode()
    path.write_bytes(build(raw_json(oci, "oci-config.json"), partition()))
    (line,) = (row for row in cmeta(path).out.splitlines() if row.startswith("  cuda "))
    shown = ">= 12.2 | brand = tesla and driver >= 470 and driver < 471"
    assert f"  {shown}  " in line
    document = cmeta("--json", path).json()
    check(document)
    (cuda,) = (r for r in document["requires"] if r["key"] == "cuda")
    assert cuda["alternatives"] == [
        [
            {"key": "brand", "op": "=", "value": "tesla"},
            {"key": "driver", "op": ">=", "value": "470"},
            {"key": "driver", "op": "<", "value": "471"},
        ]
    ]


def test_failure(cmeta: Any, tmp_path: Path) -> None:
    missing = tmp_path / "no.sif"
    for words in ([missing], ["--json", missing]):
        result = cmeta(*words)
        assert (result.code, result.out) == (3, "")
        assert result.err == f"cmeta: error: {missing}: does not exist\n"


def test_several_images(cmeta: Any, sif: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.sif"
    odd.write_bytes(build(metadata({"cpu.target": "native"}), partition(b"04")))
    result = cmeta(sif, tmp_path / "no.sif", odd)
    assert result.code == 3
    assert str(sif) in result.out
    assert str(odd) in result.out
    assert f"cmeta: error: {tmp_path / 'no.sif'}: does not exist" in result.err
    assert f"cmeta: warning: {odd}: " in result.err
    documents = cmeta("--json", sif, tmp_path / "no.sif", odd).json()
    assert [document["path"] for document in documents] == [str(sif), str(odd)]
    for document in documents:
        check(document)
    assert cmeta("--json", tmp_path / "no.sif", tmp_path).json() == []


def test_nothing_is_printed_raw(cmeta: Any, tmp_path: Path) -> None:
    evil = "\x1b]0;x\x07\r\n\u202eabc\ud800\u2028"
    labels = json.dumps(
        {
            "cpu.target": evil,
            "k" + evil: evil,
            "org.opencontainers.image.base.name": evil,
            "org.label-schema.build-date": evil,
        }
    )
    path = tmp_path / "a\x1b[31m\nb.sif"
    path.write_bytes(
        build(
            raw_json(b'{"Labels":' + labels.encode() + b"}", "oci-config.json"),
            partition()._replace(name=evil.encode("utf-8", "replace")),
            created=0,
        )
    )
    result = cmeta(path)
    assert all(line.isprintable() for line in (result.out + result.err).split("\n"))
    assert len(result.err.splitlines()) == 1
    result = cmeta("--json", path)
    assert result.out.isascii()
    assert all(line.isprintable() for line in result.out.split("\n"))
    check(result.json())


def test_every_cell_of_a_table_is_cleaned() -> None:
    assert inspect._table([("a\x1b", "b\n"), ("c", "")]) == ["  a\\x1b  b\\n", "  c"]


def test_path_that_is_not_utf_8(cmeta: Any, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.sif")
    with open(path, "wb") as file:
        file.write(build(partition()))
    assert cmeta(path).out.startswith(f"{tmp_path}/a\\xff.sif\n")
    assert cmeta("--json", path).json()["path"] == path


def test_output_encoding_that_lacks_a_character(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "h\u00e4h.sif"
    path.write_bytes(build(partition()))
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    assert inspect.run(argparse.Namespace(images=[str(path)], json=False, deep=False)) == 0
    sys.stdout.flush()
    assert b"h\\xe4h.sif\n" in buffer.getvalue()


def test_image_that_needs_nothing(cmeta: Any, tmp_path: Path) -> None:
    path = tmp_path / "img.sif"
    path.write_bytes(build(partition(b"00"), arch=b"00"))
    result = cmeta(path)
    assert "needs nothing" in result.out
    assert "states no architecture" in result.err
    check(cmeta("--json", path).json())


def test_help_ends_in_examples(cmeta: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cmeta("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "array" in shown
    assert "exit status:" in shown
    assert "\nexamples:\n  cmeta inspect img.sif\n" in shown


def test_usage(cmeta: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cmeta()
    assert caught.value.code == 2


def test_submit_path_imports_little() -> None:
    """Each import costs milliseconds at every submission that is not cached."""
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); before = set(sys.modules);"
        "import slurm_cmeta.image, slurm_cmeta.evidence; print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    heavy = {
        *("argparse", "archspec", "dataclasses", "enum", "inspect", "logging", "pathlib"),
        *("re", "subprocess", "yaml", "datetime", "tempfile"),
    }
    # `typing`, `struct` and `json` are needed; what they load themselves is theirs.
    allowed = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import __future__, typing, struct, json, sys; print(*sys.modules)",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert not (loaded - set(allowed)) & heavy
    foreign = {name for name in loaded - set(allowed) if not name.startswith("slurm_cmeta")}
    assert foreign == set()
