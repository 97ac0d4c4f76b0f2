"""What a submission needs from files: the image read, its requirements drawn."""

from __future__ import annotations

from slurm_cmeta import evidence, requirement
from slurm_cmeta.image import open_image
from slurm_cmeta.image.reader import Reader
from slurm_cmeta.kept.sources import SourceFile, Sources
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slurm_cmeta.config import Config
    from slurm_cmeta.evidence.software import Package
    from slurm_cmeta.facts import Fact
    from slurm_cmeta.image import Image
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.requirement import Requirement


class ImageReport(NamedTuple):
    """What an image is and asks for."""

    path: str
    format: str
    facts: list[Fact]
    requirements: list[Requirement]
    labels: dict[str, str]
    warnings: list[str]
    software: list[Package]
    """Empty unless all of the image was read."""
    sources: Sources | None
    """The image's file; None where its content can change unseen (a directory), or where it could
    not be read as far as it can be at another time. Of an image in a registry, until when what
    the registry said is believed."""
    others: tuple[list[Requirement], ...] = ()
    """What each other variant of an image in a registry asks for."""
    other_facts: tuple[Sequence[Fact], ...] = ()
    pinned: str = ""
    """The reference to an image in a registry, by the digest that was looked at."""
    stale: str = ""
    """Why this may be out of date, in words for people; empty when it is not."""

    def under(self, strengths: Mapping[str, str]) -> ImageReport:
        """Return the same, under other strengths of requirements."""
        return self._replace(
            requirements=requirement.from_facts(self.facts, strengths),
            others=tuple(requirement.from_facts(f, strengths) for f in self.other_facts),
        )


def read_image(
    path: str, config: Config, budget: Budget | None = None, partition: str = ""
) -> ImageReport:
    """Read the image and draw its requirements under the site's policy for a partition.

    With a deep `budget` all of it is read, the instructions in its programs included.

    Raises ImageError when it cannot be read at all; what could not be understood is a warning.
    """
    with open_image(path, budget) as image:
        findings = evidence.read(image)
        labels = image.labels()
        return ImageReport(
            path,
            image.format,
            findings.facts,
            requirement.from_facts(findings.facts, config.strengths(partition)),
            labels,
            list(image.warnings),
            findings.software,
            _sources(image),
        )


def _sources(image: Image) -> Sources | None:
    if not isinstance(image.reader, Reader) or image.warnings.passing:
        return None
    return Sources((SourceFile(image.path, *image.identity),))
