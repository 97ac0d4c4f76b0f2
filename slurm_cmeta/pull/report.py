"""What a submission needs of an image in a registry: its variants, each with what it needs.

The registry is asked for documents only, never for layers. What it said of a tag holds for some
minutes, and of a digest for good; where it cannot be reached, what it said before does.
"""

from __future__ import annotations

import time

from slurm_cmeta.facts import Fact
from slurm_cmeta.kept import values
from slurm_cmeta.kept.sources import Sources
from slurm_cmeta.pull.variant import Offer, Variant
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.registry.reference import parse
from slurm_cmeta.requirement import from_facts
from slurm_cmeta.submission import ImageReport
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_cmeta.config import Config
    from slurm_cmeta.registry.reference import Reference

KIND = "offer"

PINNED_MAX_AGE = 30 * 86400
"""Seconds for which what a digest names is believed without a question. It cannot change, but
compatibility artifacts can be attached to it later."""


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
    from slurm_cmeta.registry.errors import RegistryError

    reference = parse(text)
    max_age = PINNED_MAX_AGE if reference.digest else config.registry_max_age
    strengths = config.strengths(partition)
    name = "\0".join((str(reference), *sorted(families or ())))
    known = _load(kept, name) if kept else None
    if known is not None and 0 <= time.time() - known[1] < max_age:
        return _report(text, reference, known[0], strengths, known[1] + max_age)
    try:
        offer = _ask(reference, config, seconds, strengths, families)
    except RegistryError as problem:
        if known is None or not problem.passing:
            raise
        warning = f"{problem}; going by what it said {_ago(time.time() - known[1])} ago"
        offer = known[0]._replace(warnings=(*known[0].warnings, warning))
        return _report(text, reference, offer, strengths, None)
    now = int(time.time())
    if kept and not offer.partial:
        values.keep(kept, KIND, name, (now, _as_plain(offer)), Sources())
    return _report(text, reference, offer, strengths, None if offer.partial else now + max_age)


def _ask(
    reference: Reference,
    config: Config,
    seconds: float,
    strengths: Mapping[str, str],
    families: frozenset[str] | None,
) -> Offer:
    from slurm_cmeta.pull.offer import read
    from slurm_cmeta.registry.access import Access

    access = Access.within(seconds, plain_http=config.registry_plain_http)
    return read(reference, access, strengths, families)


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


def _ago(seconds: float) -> str:
    """Return an age in words: `5 minutes`, `3 hours`, `2 days`."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} seconds"


def _load(kept: str, name: str) -> tuple[Offer, int] | None:
    """Return what was kept under that name, and when it was asked for (seconds since 1970)."""
    found = values.load(kept, KIND, name)
    if found is None:
        return None
    try:
        asked, plain = found[0]
        return _from_plain(plain), int(asked)
    except (TypeError, ValueError):  # of another release, or damaged
        return None


def _as_plain(offer: Offer) -> tuple[Any, ...]:
    """Return an offer as it can be kept: no named tuples, and no requirements."""
    variants = tuple(
        tuple(v._replace(facts=tuple(map(tuple, v.facts)), requirements=()))  # type: ignore[arg-type]
        for v in offer.variants
    )
    return tuple(offer._replace(variants=variants))  # type: ignore[arg-type]


def _from_plain(plain: tuple[Any, ...]) -> Offer:
    offer = Offer._make(plain)
    made = (Variant._make(one) for one in offer.variants)
    return offer._replace(
        variants=tuple(v._replace(facts=tuple(map(Fact._make, v.facts))) for v in made)
    )
