"""Damaged and malicious files: a one-line ImageError or a result, never anything else."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import socket
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from oci_files import File, tar
from sif_files import (
    DATA,
    DESCRIPTOR_SIZE,
    HEADER_SIZE,
    TABLE,
    Part,
    build,
    metadata,
    need_tools,
    partition,
    raw_json,
    real_sif,
    signature,
)

from slurm_cmeta import evidence
from slurm_cmeta.errors import ImageError
from slurm_cmeta.image import Image, open_image, sif
from slurm_cmeta.image import metadata as metadata_module
from slurm_cmeta.image.content import MAX_WARNINGS

MAX = 2**63 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "img.sif"


def refused(path: Path | str) -> str:
    """Return the reason, after checking that the message is one clean line `PATH: reason`."""
    with pytest.raises(ImageError) as caught:
        open_image(str(path))
    message = str(caught.value)
    assert message.isprintable()
    assert caught.value.exit_code == 3
    return message.rpartition(": ")[2] if ": " in message else message


def survives(path: Path) -> Image | None:
    """Read all there is; return the image, or None after an ImageError."""
    message = ""
    try:
        with open_image(str(path)) as image:
            evidence.read(image)
            image.content.deffile()
    except ImageError as problem:
        message = str(problem)
    if message:
        assert message.isprintable()
        return None
    assert len(image.warnings) <= MAX_WARNINGS + 1
    assert all(warning.isprintable() for warning in image.warnings)
    return image


def test_missing(path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        open_image(str(path))
    assert str(caught.value) == f"{path}: does not exist"


def test_empty(path: Path) -> None:
    path.touch()
    assert refused(path) == "is empty"


@pytest.fixture
def alarm() -> Iterator[None]:
    """Fail instead of waiting for ever: SIGALRM interrupts a blocked open()."""

    def ring(*_: object) -> None:
        raise AssertionError("blocked")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
def test_fifo_is_neither_opened_nor_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path)
    calls: list[object] = []
    real = os.open

    def spy(name: str, *rest: int) -> int:
        calls.append(name)
        return real(name, *rest)

    monkeypatch.setattr(os, "open", spy)
    assert refused(path) == "is a FIFO"
    assert calls == []


@pytest.mark.usefixtures("alarm")
def test_fifo_that_took_the_place_of_a_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path)
    regular = path.parent / "regular"
    regular.touch()
    info = os.stat(regular)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda _: info)
        reason = refused(path)
    assert reason == "is a FIFO"


def test_socket_and_devices(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        assert refused(tmp_path / "s") == "is a socket"
    assert refused("/dev/zero") == "is a character device"


def test_link_loop_and_file_as_directory(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refused(tmp_path / "loop")
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(tmp_path / "file" / "img.sif")
    assert "too long" in refused(tmp_path / ("x" * 300))


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_impossible_paths(name: str) -> None:
    refused(name)


def test_unreadable(path: Path) -> None:
    path.write_bytes(build(partition()))
    path.chmod(0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.getuid() == 0:
                # The directories above belong to root; search by descriptor works all the same.
                os.chdir(path.parent)
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            else:
                os.chdir(path.parent)
            open_image(path.name)
        except ImageError as problem:
            expected = "img.sif: cannot be opened: Permission denied"
            code = 0 if str(problem) == expected else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "name",
    [
        b"with space.sif",
        b"quo'te\".sif",
        b"new\nline\x1b[31m.sif",
        "h\u00e4h \u4e2d\u6587 \U0001f600.sif".encode(),
        b"not\xff\xfeutf8.sif",
        b"-rf",
    ],
)
def test_odd_names(tmp_path: Path, name: bytes) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert str(caught.value).isprintable()
    with open(path, "wb") as file:
        file.write(build(partition()))
    with open_image(path) as image:
        assert image.path == path


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"sqsh" + bytes(9000),
         "is a squashfs of before 2009 or of another byte order, which is not read"),
        (b"\x7fELF" + bytes(900), "is a program or library (ELF), not an image"),
        (b"\x1f\x8b\x08" + bytes(900), "is a gzip-compressed file, not an image"),
        (b"a" * 257 + b"ustar\0" + bytes(900), "is a damaged tar archive"),
        (gzip.compress(tar(File("manifest.json"))),
         "is a tar archive packed with gzip, which is not read; unpack it with gunzip"),
        (b"\0" * 1080 + b"\x53\xef" + bytes(900),
         "is an ext3 image, which is not read; convert it to SIF"),
        (b"#!/usr/bin/env run-singularity\n" + b"\0" * 1080 + b"\x53\xef" + bytes(900),
         "is an ext3 image, which is not read; convert it to SIF"),
        (b"#!/usr/bin/env run-singularity\n" + bytes(900),
         "is an image of Singularity before 3.0, not a SIF"),
        (b"PK\x03\x04" + bytes(900), "is a zip archive, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
         "is a Git LFS pointer, not the image itself"),
        (b"#!/bin/sh\nexit\n", "is a script, not an image"),
        (b'{"schemaVersion": 2}', "is JSON text, not an image"),
        (bytes(100_000), "holds only zeros where an image begins"),
        (b"hello", "is no container image"),
    ],
)  # fmt: skip
def test_other_files_are_named(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    assert refused(path) == reason


def test_no_partition(path: Path) -> None:
    path.write_bytes(build(metadata({})))
    assert "no system partition" in str(caught_error(path))
    path.write_bytes(build(partition(kind=1), partition(kind=4)))
    assert "no system partition" in str(caught_error(path))
    path.write_bytes(build(total=0))
    assert "no system partition" in str(caught_error(path))


def caught_error(path: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_image(str(path))
    return caught.value


def test_two_primary_partitions(path: Path) -> None:
    path.write_bytes(build(partition(), partition(b"04")))
    assert "2 primary system partitions (descriptors 1, 2)" in str(caught_error(path))


def test_oci_sif_without_its_index(path: Path) -> None:
    path.write_bytes(build(Part(0x400B, b"{}"), arch=b"00", launch=b""))
    assert "OCI-SIF without a root index" in str(caught_error(path))


@pytest.mark.parametrize("version", [b"00", b"02", b"", b"\xff\n\x1b"])
def test_other_versions(path: Path, version: bytes) -> None:
    path.write_bytes(build(partition(), version=version))
    assert "SIF version" in str(caught_error(path))


@pytest.mark.parametrize("total", [-1, -(2**63), 1025, 2**31, MAX])
def test_descriptor_counts(path: Path, total: int) -> None:
    path.write_bytes(build(partition(), stated_total=total, table_size=MAX))
    assert f"states {total} descriptors (0 to 1024 are read)" in str(caught_error(path))


@pytest.mark.parametrize("offset", [-1, -(2**63), 0, 127, 100_000, MAX, MAX - 28080])
def test_table_offsets(path: Path, offset: int) -> None:
    data = bytearray(build(partition()))
    struct.pack_into("<q", data, 96, offset)
    path.write_bytes(data)
    assert "descriptors" in str(caught_error(path))


@pytest.mark.parametrize("size", [-1, 0, 48 * 585 - 1, -(2**63)])
def test_table_sizes(path: Path, size: int) -> None:
    path.write_bytes(build(partition(), table_size=size))
    assert "descriptors" in str(caught_error(path))


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 10), (10, -1), (MAX, 1), (1, MAX), (MAX, MAX), (-(2**63), -(2**63))]
)
def test_data_section_that_cannot_be(path: Path, offset: int, size: int) -> None:
    path.write_bytes(build(partition(), data_offset=offset, data_size=size))
    assert "damaged" in str(caught_error(path))


def test_lesser_damage_of_the_header_is_a_warning(path: Path) -> None:
    path.write_bytes(build(partition(), data_size=10**9))
    with open_image(str(path)) as image:
        assert "the file ends at" in image.warnings[0]
    for free in (-1, 49, MAX):
        path.write_bytes(build(partition(), free=free))
        with open_image(str(path)) as image:
            assert "free descriptors" in image.warnings[0]


EXTREMES = [-(2**63), -1, 0, 1, HEADER_SIZE - 1, TABLE, DATA - 1, DATA + 10**6, 2**31, 2**32, MAX]


@pytest.mark.parametrize("offset", EXTREMES)
def test_offsets_of_the_partition(path: Path, offset: int) -> None:
    path.write_bytes(build(partition()._replace(offset=offset)))
    assert "system partition (descriptor 1)" in str(caught_error(path))


@pytest.mark.parametrize("size", [-(2**63), -1, 0, 4097, 2**31, MAX, MAX - DATA])
def test_sizes_of_the_partition(path: Path, size: int) -> None:
    path.write_bytes(build(partition()._replace(size=size)))
    assert "system partition (descriptor 1)" in str(caught_error(path))


@pytest.mark.parametrize("value", [v for v in EXTREMES if v not in (0, 1, 127, TABLE, DATA - 1)])
@pytest.mark.parametrize("field", ["offset", "size"])
def test_labels_outside_the_file_are_a_warning(path: Path, field: str, value: int) -> None:
    part = metadata({"a": "b"})
    broken = part._replace(offset=value) if field == "offset" else part._replace(size=value)
    path.write_bytes(build(broken, partition(), signature()))
    with open_image(str(path)) as image:
        assert image.labels() == {}
        assert "lies outside the file" in image.warnings[0]
        assert image.content.architectures[0].name == "amd64"


def test_overlapping_objects_are_read_as_they_are(path: Path) -> None:
    data = build(metadata({"a": "b"}), metadata({"c": "d"}, "oci-config.json"), partition())
    first = struct.unpack_from("<qq", data, TABLE + 17)
    changed = bytearray(data)
    struct.pack_into("<qq", changed, TABLE + DESCRIPTOR_SIZE + 17, *first)
    path.write_bytes(changed)
    with open_image(str(path)) as image:
        assert image.labels() == {"a": "b"}


@pytest.mark.parametrize(
    ("data", "warning"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 10_000, "nested too deeply"),
        (b'{"data":' * 10_000, "nested too deeply"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
        (b'{"data":{"attributes":{"labels":[1,2]}}}', "not a JSON object"),
        (b'{"data":{"attributes":{"labels":{"a":1,"b":NaN,"c":null,"d":[]}}}}', "4 label(s)"),
        (b'{"data":{"attributes":{"labels":{"n":' + b"9" * 500_000 + b"}}}}", "1 label(s)"),
        (b'{"data":{"attributes":{"labels":{"n":-Infinity,"m":1e999999}}}}', "2 label(s)"),
        (b'{"data":{"attributes":null},"Labels":7}', "not a JSON object"),
        (b'{"data":[{"attributes":{}}]}', ""),
        (b'{"data":' + b" " * metadata_module.MAX_JSON + b"{}}", "it is ignored"),
    ],
)
def test_broken_metadata_is_a_warning(path: Path, data: bytes, warning: str) -> None:
    path.write_bytes(build(raw_json(data), partition()))
    with open_image(str(path)) as image:
        assert image.labels() == {}
        assert warning in "".join(image.warnings)
        assert bool(image.warnings) == bool(warning)


def test_broken_metadata_leaves_the_other_object(path: Path) -> None:
    other = raw_json(b'{"Labels":{"a":"b"}}', "oci-config.json")
    path.write_bytes(build(raw_json(b"{"), other, partition()))
    with open_image(str(path)) as image:
        assert image.labels() == {"a": "b"}


def test_odd_label_texts(path: Path) -> None:
    data = (
        b'{"Labels":{"twice":"1","twice":"2","bytes":"a\xffb","alone":"x\\ud800y",'
        b'"pair":"\\ud83d\\ude00","nul":"\\u0000","esc":"\\u001b[2J","k\\n":"v"}}'
    )
    path.write_bytes(build(raw_json(data, "oci-config.json"), partition()))
    with open_image(str(path)) as image:
        labels = image.labels()
    assert labels == {
        "twice": "2",
        "bytes": "a\ufffdb",
        "alone": "x\ufffdy",
        "pair": "\U0001f600",
        "nul": "\0",
        "esc": "\x1b[2J",
        "k\n": "v",
    }
    json.dumps(labels, ensure_ascii=False).encode()


def test_a_thousand_complaints_stay_few(path: Path) -> None:
    parts = [Part(0x4007, b"", f"o{n}", offset=-1) for n in range(1000)]
    path.write_bytes(build(*parts, partition(), total=1024))
    image = survives(path)
    assert image is not None
    assert len(image.warnings) == MAX_WARNINGS + 1


def test_memory_is_bounded(path: Path) -> None:
    nasty = b'{"Labels":[' + b"[]," * (metadata_module.MAX_JSON // 3 - 8) + b"0]}"
    parts = [raw_json(nasty), raw_json(nasty, "oci-config.json")]
    parts += [raw_json(nasty) for _ in range(40)]
    path.write_bytes(build(*parts, Part(0x4001, b"a: b\n" * 10**6), partition()))
    tracemalloc.start()
    try:
        assert survives(path) is not None
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def truncations() -> Iterator[int]:
    yield from range(HEADER_SIZE + 2)
    for descriptor in range(49):
        border = TABLE + descriptor * DESCRIPTOR_SIZE
        yield from (border - 1, border, border + 1)
    yield from range(HEADER_SIZE, DATA, 97)


def test_every_truncation_before_the_end_of_the_partition(path: Path) -> None:
    data = build(metadata({"a": "b"}), partition(), signature())
    end = len(data) - len(signature().data)
    metadata_end = DATA + len(metadata({"a": "b"}).data)
    borders = (DATA, DATA + 1, metadata_end - 1, metadata_end, metadata_end + 1, end - 1)
    path.write_bytes(data)
    for length in sorted({*truncations(), *borders}, reverse=True):
        os.truncate(path, length)
        assert len(str(caught_error(path))) > len(str(path))
    for length in (end, end + 1, len(data)):
        path.write_bytes(data[:length])
        with open_image(str(path)) as image:
            assert image.labels() == {"a": "b"}
            assert bool(image.warnings) == (length < len(data))


def test_every_byte_length_of_the_first_kilobytes(path: Path) -> None:
    need_tools()
    real_sif(path, labels={"a": "b"})
    whole = path.read_bytes()
    for length in range(5000, -1, -1):
        os.truncate(path, length)
        caught_error(path)
    path.write_bytes(whole[:DATA])
    assert "truncated" in str(caught_error(path))


@pytest.fixture(scope="module")
def real_bytes() -> bytes:
    need_tools()
    with tempfile.TemporaryDirectory() as directory:
        target = real_sif(
            Path(directory) / "img.sif",
            labels={"cpu.target": "zen3"},
            oci_labels={"x": "y"},
            deffile="Bootstrap: docker\nFrom: debian\n",
        )
        return target.read_bytes()


def mutate_and_read(data: bytes, changes: list[tuple[int, bytes]]) -> None:
    changed = bytearray(data)
    for offset, new in changes:
        changed[offset : offset + len(new)] = new
    with tempfile.NamedTemporaryFile() as file:
        file.write(changed)
        file.flush()
        begin = time.process_time()
        survives(Path(file.name))
        assert time.process_time() - begin < 1


STRUCTURES = st.one_of(
    st.integers(0, HEADER_SIZE - 1),
    st.integers(TABLE, TABLE + 5 * DESCRIPTOR_SIZE),
    st.integers(0, 33_000),
)
VALUES = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from(EXTREMES).map(lambda value: struct.pack("<q", value)),
)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([(32, b"\0")])
@example([(TABLE + 25, struct.pack("<q", MAX))])
@given(st.lists(st.tuples(STRUCTURES, VALUES), min_size=1, max_size=6))
def test_flipped_bytes_of_a_real_file(real_bytes: bytes, changes: list[tuple[int, bytes]]) -> None:
    mutate_and_read(real_bytes, changes)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(STRUCTURES, VALUES), min_size=1, max_size=6))
def test_flipped_bytes_of_a_built_file(changes: list[tuple[int, bytes]]) -> None:
    mutate_and_read(
        build(metadata({"cpu.target": "zen3"}), partition(), signature(), Part(0x4009)), changes
    )


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_metadata(data: bytes) -> None:
    mutate_and_read(build(raw_json(data), raw_json(data, "oci-config.json"), partition()), [])


def test_peak_memory_of_the_process_with_the_largest_table(path: Path) -> None:
    parts = [Part(0x4007, b"x", b"\xff" * 128) for _ in range(sif.MAX_DESCRIPTORS - 1)]
    path.write_bytes(build(*parts, partition(), total=sif.MAX_DESCRIPTORS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert survives(path) is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
