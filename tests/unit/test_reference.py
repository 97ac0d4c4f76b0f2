"""Names of images in registries and layouts."""

from __future__ import annotations

import pytest

from slurm_cmeta.errors import UsageError
from slurm_cmeta.registry.reference import Reference, is_reference, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "parsed", "full"),
    [
        (
            "docker://alpine",
            Reference("docker", "docker.io", "library/alpine", "latest"),
            "docker://docker.io/library/alpine:latest",
        ),
        (
            "docker://quay.io/org/app:1.0",
            Reference("docker", "quay.io", "org/app", "1.0"),
            "docker://quay.io/org/app:1.0",
        ),
        (
            "docker://org/app",
            Reference("docker", "docker.io", "org/app", "latest"),
            "docker://docker.io/org/app:latest",
        ),
        (
            f"docker://localhost:5000/app@{DIGEST}",
            Reference("docker", "localhost:5000", "app", "", DIGEST),
            f"docker://localhost:5000/app@{DIGEST}",
        ),
        (
            f"docker://127.0.0.1:5000/a/b__c/d-e:x_Y.1@{DIGEST}",
            Reference("docker", "127.0.0.1:5000", "a/b__c/d-e", "x_Y.1", DIGEST),
            f"docker://127.0.0.1:5000/a/b__c/d-e:x_Y.1@{DIGEST}",
        ),
        (
            "oras://[::1]:5000/app:2",
            Reference("oras", "[::1]:5000", "app", "2"),
            "oras://[::1]:5000/app:2",
        ),
        ("oci:/srv/layout", Reference("oci", "", "/srv/layout", ""), "oci:/srv/layout"),
        ("oci://srv/layout:v1", Reference("oci", "", "srv/layout", "v1"), "oci:srv/layout:v1"),
        ("oci:/a:b/c", Reference("oci", "", "/a:b/c", ""), "oci:/a:b/c"),
        (f"oci:/l@{DIGEST}", Reference("oci", "", "/l", "", DIGEST), f"oci:/l@{DIGEST}"),
    ],
)
def test_a_reference_is_taken_apart_and_written_in_full(
    text: str, parsed: Reference, full: str
) -> None:
    assert parse(text) == parsed
    assert str(parse(text)) == full
    assert parse(full) == parsed


@pytest.mark.parametrize(
    "text",
    [
        *("docker://", "docker:alpine", "docker:///app", "docker://h.x/", "docker://UPPER/app"),
        *(
            "docker://a..b/c",
            "docker://h.x/app:",
            "docker://h.x/app:-x",
            "docker://h.x/app@sha256:1",
        ),
        *("docker://h.x:99999/app", "docker://h.x:/app", "docker://h.x/../etc", "docker://h.x/a b"),
        *("docker://h.x/app:" + "x" * 129, "docker://h.x/" + "a" * 256, "docker://h.x/a?b"),
        *("http://h.x/app", "/img.sif", "img.sif", "oci:", "oci:\0", "docker://user:pw@h.x/app"),
        *("docker://h.x/a\nb", "docker://h.x/" + "a/" * 5000),
    ],
)
def test_what_is_no_reference_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as wrong:
        parse(text)
    assert "\n" not in str(wrong.value)
    assert len(str(wrong.value)) < 500


def test_references_and_paths_are_told_apart() -> None:
    assert is_reference("docker://alpine")
    assert is_reference("oci:/srv/layout")
    assert not is_reference("/srv/docker:/x")
    assert not is_reference("img.sif")
    assert not is_reference("shub://x/y")


def test_a_pinned_reference_names_the_digest_alone() -> None:
    assert parse("docker://h.x/app:1").pinned(DIGEST) == f"docker://h.x/app@{DIGEST}"
    assert parse("oci:/l:1").pinned(DIGEST) == f"oci:/l@{DIGEST}"
    assert parse("docker://h.x/app:1").name == "app:1"
