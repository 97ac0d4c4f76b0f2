"""The name of an image in a registry, as Apptainer, skopeo and Slurm's users write it.

    docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]    an image by OCI's or Docker's specification
    oras://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]        a SIF that was pushed as an artifact
    oci:DIRECTORY[:TAG][@DIGEST]                        an OCI layout on disk, written oci://, too

The grammar of the names is that of distribution/reference (reference.go, normalize.go): a first
part with a dot or a colon in it, or `localhost`, is a host; else the image is of Docker Hub, where
a repository of one part lies below `library`. The tag is `latest` where neither tag nor digest is
given.
"""

from __future__ import annotations

from slurm_cmeta.errors import UsageError
from slurm_cmeta.image.oci import is_digest
from slurm_cmeta.record import NamedTuple
from slurm_cmeta.text import clean

DOCKER, ORAS, LAYOUT = "docker", "oras", "oci"

MAX_LENGTH = 4096
"""Characters of a reference; a repository has at most 255, a path on disk 4,096."""

HUB = "docker.io"
HUB_SERVER = "registry-1.docker.io"
"""Where Docker Hub answers (distribution/reference normalize.go; moby registry/config.go)."""

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_TAG = _LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_.-")
_HOST = _TAG | frozenset(":[]")


class Reference(NamedTuple):
    """An image's name, taken apart."""

    transport: str
    """`docker`, `oras` or `oci`."""
    host: str
    """Host and port as written, `docker.io` for Docker Hub; empty for a layout."""
    repository: str
    """The repository, or the directory of a layout."""
    tag: str
    """Empty where the reference names a digest alone, or a layout with no tag."""
    digest: str = ""
    """`sha256:...`, empty where none is named. It counts, not the tag, where there are both."""

    @property
    def server(self) -> str:
        """Return the host and port to connect to."""
        return HUB_SERVER if self.host == HUB else self.host

    @property
    def name(self) -> str:
        """Return what a person calls it: the last part of the repository, and the tag."""
        last = self.repository.rstrip("/").rpartition("/")[2]
        return clean(f"{last}:{self.tag}" if self.tag else last, 80)

    def pinned(self, digest: str) -> str:
        """Return the reference to one manifest or index of this repository, by its digest."""
        if self.transport == LAYOUT:
            return f"{LAYOUT}:{self.repository}@{digest}"
        return f"{self.transport}://{self.host}/{self.repository}@{digest}"

    def __str__(self) -> str:
        """Return the reference in full, as Apptainer takes it."""
        where = f"{self.host}/{self.repository}" if self.host else self.repository
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.transport}:{'//' if self.host else ''}{where}{tag}{digest}"


def is_reference(text: str) -> bool:
    """Tell whether `text` is written as a reference, and not as the path of a file."""
    transport, colon, _ = text.partition(":")
    return bool(colon) and transport in (DOCKER, ORAS, LAYOUT)


def parse(text: str) -> Reference:
    """Return the reference that `text` is. Raises UsageError, which says why it is none."""
    transport, _, rest = text.partition(":")
    if len(text) > MAX_LENGTH:
        raise _wrong(text, f"it has more than {MAX_LENGTH} characters")
    if not is_reference(text):
        raise _wrong(text, "it begins with none of docker://, oras://, oci:")
    name, at, digest = rest.removeprefix("//").rpartition("@")
    if not at:
        name, digest = digest, ""
    elif not is_digest(digest):
        raise _wrong(text, f"{clean(digest, 80)} is no digest (sha256: and 64 hexadecimal digits)")
    if transport == LAYOUT:
        return _layout(text, name, digest)
    if not rest.startswith("//"):
        raise _wrong(text, f"{transport}: has no // behind it")
    return _named(text, transport, name, digest)


def _layout(text: str, name: str, digest: str) -> Reference:
    directory, tag = name, ""
    before, colon, after = name.rpartition(":")
    if colon and "/" not in after:
        directory, tag = before, after
    if not directory or "\0" in directory:
        raise _wrong(text, "it names no directory")
    return Reference(LAYOUT, "", directory, tag, digest)


def _named(text: str, transport: str, name: str, digest: str) -> Reference:
    host, slash, repository = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, repository = HUB, name
    before, colon, tag = repository.rpartition(":")
    if colon:
        repository = before
    else:
        tag = ""
    if host == HUB and "/" not in repository:
        repository = f"library/{repository}"
    if colon and not (0 < len(tag) <= 128 and _TAG.issuperset(tag) and tag[0] not in ".-"):
        raise _wrong(text, f"{clean(tag, 80) or 'nothing'} is no tag")
    if ".." in host or not _HOST.issuperset(host) or not _port_is_good(host):
        raise _wrong(text, f"{clean(host, 80)} is no host")
    parts = repository.split("/")
    if len(repository) > 255 or not all(map(_is_part, parts)):
        raise _wrong(text, f"{clean(repository, 80)} is no name of a repository")
    return Reference(transport, host, repository, tag or ("" if digest else "latest"), digest)


def _is_part(part: str) -> bool:
    """Tell whether `part` is one of a repository's: lower case, with single separators inside."""
    if not part or not _LOWER.issuperset(part[0] + part[-1]):
        return False
    plain = part.replace("__", "x")
    return _LOWER.union("._-").issuperset(part) and not any(
        pair in plain for pair in ("..", "._", "_.", ".-", "-.", "__", "_-", "-_")
    )


def _port_is_good(host: str) -> bool:
    name, colon, port = host.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return True
    return not colon or (bool(name) and port.isdecimal() and 0 < int(port) < 65536)


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"{clean(text, 200)} is no reference to an image: {why}")
