"""What a submission needs of an image in a registry: its variants, each with what it needs.

The registry is asked for documents only, never for layers.
"""

from __future__ import annotations

from slurm_cmeta.kept.sources import Sources
from slurm_cmeta.pull import offers
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.access import Access
from slurm_cmeta.registry.reference import parse
from slurm_cmeta.requirement import from_facts
from slurm_cmeta.submission import ImageReport
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_cmeta.config import Config
    from slurm_cmeta.pull.variant import Offer, Variant
    from slurm_cmeta.registry.reference import Reference


def read_reference(
    text: str,
    config: Config,
    seconds: float,
    partition: str = "",
    kept: str = "",
    families: frozenset[str] | None = None,
) -> ImageReport:
    """Return what the reference `text` names, by what the registry says within `seconds`.

    `kept` is the directory of the user's cache, empty for none. Of variants for other architectures
    than `families` no more than that is read. Raises UsageError where `text` is no reference, and
    RegistryError where the registry does not say and has not said before.
    """
    reference = parse(text)
    max_age = offers.PINNED_MAX_AGE if reference.digest else config.registry_max_age
    strengths = config.strengths(partition)
    access = Access.within(seconds, plain_http=config.registry_plain_http)
    offer, asked = offers.get(reference, access, strengths, families, kept, max_age)
    lasting = not offer.partial and asked is not None
    until = int(asked or 0) + max_age if lasting else None
    report = _report(text, reference, offer, strengths, until)
    return report if asked is not None else report._replace(stale=offer.warnings[-1])


def _report(
    text: str,
    reference: Reference,
    offer: Offer,
    strengths: Mapping[str, str],
    until: int | None,
) -> ImageReport:
    usable = [v for v in offer.variants if not v.problem]
    needs = tuple(from_facts(v.facts, strengths) for v in usable)
    return ImageReport(
        text,
        "registry",
        list(usable[0].facts) if usable else [],
        needs[0] if needs else [],
        usable[0].labels if usable else {},
        [*offer.warnings, *(f"{_named(v)} {v.problem}" for v in offer.variants if v.problem)],
        [],
        None if until is None else Sources(until=until),
        needs[1:],
        tuple(v.facts for v in usable[1:]),
        reference.pinned(offer.digest),
    )


def _named(variant: Variant) -> str:
    return clean(f"variant {variant.platform or variant.digest[:19]}")
