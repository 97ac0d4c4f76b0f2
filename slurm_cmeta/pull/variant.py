"""One of the images that are kept under one name."""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from slurm_cmeta.facts import Fact
    from slurm_cmeta.requirement import Requirement


class Variant(NamedTuple):
    """One image of those that a reference names, as far as it can be told without its layers."""

    digest: str
    """Of its manifest."""
    platform: str
    """As OCI writes it: `linux/amd64/v3`; empty where nobody states one."""
    size: int
    """Bytes to be fetched: layers and configuration, as the manifest states; 0 where unread."""
    facts: tuple[Fact, ...]
    requirements: tuple[Requirement, ...]
    """What it needs of a node; the site's policy is in it."""
    labels: dict[str, str]
    name: str = ""
    """Its tag in an index, where it has one."""
    problem: str = ""
    """Why it cannot be used whatever the target, in words for people: unread, or no image."""


class Offer(NamedTuple):
    """All that a reference names."""

    digest: str
    """Of the index, or of the one manifest: what a pinned reference names."""
    variants: tuple[Variant, ...]
    """In the order of the index."""
    warnings: tuple[str, ...] = ()
    partial: bool = False
    """Whether more would have been read with more time."""
    plain: bool = False
    """Whether the registry is spoken to without TLS."""
