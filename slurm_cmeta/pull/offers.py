"""Offers that are known already: what a registry said before is not asked for again.

What it said of a tag holds for some minutes, of a digest for good; where the registry cannot be
reached, what it said before does.
"""

from __future__ import annotations

import time

from slurm_cmeta.facts import Fact
from slurm_cmeta.kept import values
from slurm_cmeta.kept.sources import Sources
from slurm_cmeta.pull.variant import Offer, Variant
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.requirement import from_facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from slurm_cmeta.registry.access import Access
    from slurm_cmeta.registry.reference import Reference

KIND = "offer"

PINNED_MAX_AGE = 30 * 86400
"""Seconds for which what a digest names is believed without a question. It cannot change, but
compatibility artifacts can be attached to it later."""


def get(
    reference: Reference,
    access: Access,
    strengths: Mapping[str, str],
    families: frozenset[str] | None = None,
    kept: str = "",
    max_age: int = PINNED_MAX_AGE,
) -> tuple[Offer, int | None]:
    """Return what `reference` names, and when that was asked for (seconds since 1970).

    None in place of the time says that it is older than `max_age`, and that the registry gave no
    newer answer: a warning in the offer says so. `kept` is the directory of the user's cache, empty
    for none. The rest as in offer.read(). Raises RegistryError where the registry does not say and
    has not said before.
    """
    name = "\0".join((str(reference), *sorted(families or ())))
    known = _load(kept, name, strengths) if kept else None
    if known is not None and 0 <= time.time() - known[1] < max_age:
        return known
    from slurm_cmeta.pull import offer
    from slurm_cmeta.registry.errors import RegistryError

    try:
        found = offer.read(reference, access, strengths, families, attached=True)
    except RegistryError as problem:
        if known is None or not problem.passing:
            raise
        warning = f"{problem}; going by what it said {_ago(time.time() - known[1])} ago"
        return known[0]._replace(warnings=(*known[0].warnings, warning)), None
    now = int(time.time())
    if kept and not found.partial:
        values.keep(kept, KIND, name, (now, _as_plain(found)), Sources())
    return found, now


def _ago(seconds: float) -> str:
    """Return an age in words: `5 minutes`, `3 hours`, `2 days`."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} seconds"


def _load(kept: str, name: str, strengths: Mapping[str, str]) -> tuple[Offer, int] | None:
    """Return what was kept under that name, and when it was asked for (seconds since 1970)."""
    found = values.load(kept, KIND, name)
    if found is None:
        return None
    try:
        asked, plain = found[0]
        return _from_plain(plain, strengths), int(asked)
    except (TypeError, ValueError):  # of another release, or damaged
        return None


def _as_plain(offer: Offer) -> tuple[Any, ...]:
    """Return an offer as it can be kept: no named tuples, and no requirements."""
    variants = tuple(
        tuple(v._replace(facts=tuple(map(tuple, v.facts)), requirements=()))  # type: ignore[arg-type]
        for v in offer.variants
    )
    return tuple(offer._replace(variants=variants))  # type: ignore[arg-type]


def _from_plain(plain: tuple[Any, ...], strengths: Mapping[str, str]) -> Offer:
    offer = Offer._make(plain)
    variants = []
    for one in map(Variant._make, offer.variants):
        facts = tuple(map(Fact._make, one.facts))
        needs = tuple(from_facts(facts, strengths))
        variants.append(one._replace(facts=facts, requirements=needs))
    return offer._replace(variants=tuple(variants))
