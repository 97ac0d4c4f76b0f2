"""Slurm's host lists, `n[1-3,07-10],login`: expanded, counted and written (pure functions).

Follows src/common/hostlist.c of Slurm 22.05.8 and 24.11.5 for clusters of one dimension:
_next_tok (names are separated by comma, blank, tab or line feed), _parse_single_range (the width of
the first number is the zero padding of the range, `5-` means `5`, no steps), _push_range_list (any
number of brackets in a name; the last one runs fastest, the others from left to right) and, as in
24.11, text after the last bracket (`n[1-2]-ib`, which 22.05 refuses).

Stricter than Slurm where that lets slips pass: an open bracket without its end (22.05 takes `n[1`
for a host called `n]`), brackets in brackets, and bracket items that do not consist of digits
(Slurm reads `1a-3` as `01-03` and `1, 2` as `1,02`). Host list functions (`feature{gpu}`, 24.11)
are names like any other here: only slurmctld can resolve them.
"""

from __future__ import annotations

from slurm_cmeta.errors import ClusterError
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_HOSTS = 1_000_000
"""Most hosts that one list may stand for. Slurm 24.11 runs 65,536 nodes at most (MAX_SLURM_NODES);
more than this is a slip or an attack, and 1,000,000 names already take some 60 MB of memory."""

MAX_RANGE = 65536
"""Most hosts in one range, and in a bracket before the last (MAX_RANGE, MAX_PREFIX_CNT)."""

MAX_DIGITS = 18
"""Longest number. Slurm reads numbers by strtoul and ruins longer ones: n99999999999999999999
becomes n18446744073709551615. Here, a name that ends in more digits has no number."""

_DIGITS = "0123456789"
_DIGIT = frozenset(_DIGITS)
_SPECIAL = frozenset("\t, \n[]")


class Span(NamedTuple):
    """Names `stem` + number, each number `digits` long with its zeros: the unit of set operations.

    The stem does not end in a digit, so that a name lies in spans of one (stem, digits) only.
    A name without number has digits 0, first 0 and last 0.
    """

    stem: str
    digits: int
    first: int
    last: int


class _Token(NamedTuple):
    """One name of a list: literals[0] brackets[0] literals[1] ... brackets[-1] literals[-1]."""

    literals: list[str]
    brackets: list[list[tuple[int, int, int]]]
    """Ranges as (first, last, width)."""
    size: int


def expand(text: str) -> list[str]:
    """Return the names of a host list, in Slurm's order, repeated names repeated.

    Raises ClusterError when `text` is no host list or stands for more than MAX_HOSTS hosts.
    """
    names: list[str] = []
    for token in _tokens(text):
        for prefix, ranges, suffix in _unfold(token):
            for first, last, width in ranges:
                names += [f"{prefix}{i:0{width}d}{suffix}" for i in range(first, last + 1)]
        if not token.brackets:
            names.append(token.literals[0])
    return names


def count(text: str) -> int:
    """Return len(expand(text)) without building the names. Raises ClusterError as expand does."""
    return sum(token.size for token in _tokens(text))


def compress(names: Iterable[str]) -> str:
    """Return the names as one host list: sorted by number, zero padding kept, each name once.

    The form is that of `scontrol show hostlistsorted`, save that names which differ only in padding
    come in order of length. Raises ClusterError for a name that a host list cannot hold.
    """
    unique = set(names)
    if "" in unique or not _SPECIAL.isdisjoint("".join(unique)):
        bad = min(name for name in unique if not name or not _SPECIAL.isdisjoint(name))
        raise ClusterError(f"a host list cannot hold the name '{clean(bad)}'")
    numbers: dict[tuple[str, int], list[int]] = {}
    spans: list[Span] = []
    for name in unique:
        stem = name.rstrip(_DIGITS)
        digits = len(name) - len(stem)
        if 0 < digits <= MAX_DIGITS:
            key = (stem, digits)
            if key in numbers:
                numbers[key].append(int(name[-digits:]))
            else:
                numbers[key] = [int(name[-digits:])]
        else:
            spans.append(Span(name, 0, 0, 0))
    for (stem, digits), found in numbers.items():
        found.sort()
        spans += [Span(stem, digits, first, last) for first, last in _runs(found)]
    return join(spans)


def spans(text: str) -> list[Span]:
    """Return what a host list stands for as spans, without building a name for each host.

    Spans may overlap where the list repeats a name. Raises ClusterError as expand does.
    """
    if text and _SPECIAL.isdisjoint(text):  # the usual form of a line for each node
        return [_span_of(text)]
    found: list[Span] = []
    if "[" not in text and "]" not in text:
        listed = text.replace("\t", ",").replace(" ", ",").replace("\n", ",").split(",")
        if len(listed) > MAX_HOSTS:
            raise _error(text, f"more than {MAX_HOSTS} hosts")
        return _spans_of(list(filter(None, listed)))
    for token in _tokens(text):
        if not token.brackets:
            found.append(_span_of(token.literals[0]))
        for prefix, ranges, suffix in _unfold(token):
            for first, last, width in ranges:
                if suffix:
                    names = (f"{prefix}{i:0{width}d}{suffix}" for i in range(first, last + 1))
                    found += map(_span_of, names)
                else:
                    found += _normal(prefix, first, last, width)
    return found


def join(spans: Iterable[Span]) -> str:
    """Return spans as one host list; overlapping and adjacent ones are joined. See compress."""
    by_stem: dict[tuple[str, bool], list[Span]] = {}
    for span in spans:
        by_stem.setdefault((span.stem, span.digits > 0), []).append(span)
    items: list[str] = []
    for stem, numbered in sorted(by_stem, key=_natural):
        if not numbered:
            items.append(stem)
            continue
        by_stem[stem, True].sort()
        ranges = list(_ranges(by_stem[stem, True]))
        text = ",".join(ranges)
        items.append(f"{stem}[{text}]" if len(ranges) > 1 or "-" in text else stem + text)
    return ",".join(items)


def _tokens(text: str) -> Iterator[_Token]:
    total = 0
    for literals, brackets in _words(text):
        token = _token(text, literals, brackets)
        total += token.size
        if total > MAX_HOSTS:
            raise _error(text, f"more than {MAX_HOSTS} hosts")
        yield token


def _words(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield what stands outside and inside of the brackets of each name: one more than inside."""
    literals, brackets = [""], []
    first = True
    for part in text.split("["):
        inside, closed, outside = part.partition("]")
        if first:
            first, outside = False, part
            closed = "]"
        else:
            brackets.append(inside)
            literals.append("")
        if not closed or "]" in outside:
            raise _error(text, "unbalanced or nested brackets")
        pieces = outside.replace("\t", ",").replace(" ", ",").replace("\n", ",").split(",")
        for number, piece in enumerate(pieces):
            if number:
                if brackets or literals[0]:
                    yield literals, brackets
                literals, brackets = [""], []
            literals[-1] += piece
    if brackets or literals[0]:
        yield literals, brackets


def _token(text: str, literals: list[str], insides: list[str]) -> _Token:
    brackets: list[list[tuple[int, int, int]]] = []
    product = 1
    for number, inside in enumerate(insides, 1):
        brackets.append([_range(text, item) for item in inside.split(",")])
        size = sum(last - first + 1 for first, last, _ in brackets[-1])
        product *= size
        if product > MAX_HOSTS:
            raise _error(text, f"more than {MAX_HOSTS} hosts")
        if size > MAX_RANGE and number < len(insides):
            raise _error(text, f"more than {MAX_RANGE} hosts in a bracket before the last")
    return _Token(literals, brackets, product)


def _range(text: str, item: str) -> tuple[int, int, int]:
    low, _, high = item.partition("-")
    digits = _DIGIT.issuperset(low + high)
    if not low or not digits or max(len(low), len(high)) > MAX_DIGITS:
        raise _error(text, f"'{clean(item, 40)}' is not a number or a range of numbers")
    first = int(low)
    last = int(high) if high else first
    if first > last:
        raise _error(text, f"range {item} runs backwards")
    if last - first >= MAX_RANGE:
        raise _error(text, f"more than {MAX_RANGE} hosts in range {item}")
    return first, last, len(low)


def _error(text: str, reason: str) -> ClusterError:
    return ClusterError(f"host list '{clean(text, 60)}': {reason}")


def _unfold(token: _Token) -> Iterator[tuple[str, list[tuple[int, int, int]], str]]:
    """Yield (prefix, ranges of the last bracket, suffix), the other brackets written out."""
    if not token.brackets:
        return
    prefixes = [token.literals[-2]]
    for literal, ranges in zip(token.literals[-3::-1], token.brackets[-2::-1], strict=True):
        numbers = [
            f"{literal}{i:0{width}d}"
            for first, last, width in ranges
            for i in range(first, last + 1)
        ]
        prefixes = [number + rest for rest in prefixes for number in numbers]
    for prefix in prefixes:
        yield prefix, token.brackets[-1], token.literals[-1]


def _spans_of(names: list[str]) -> list[Span]:
    """Return the spans of single names, those that count on in one."""
    found: list[Span] = []
    stem, digits, first, last = "", -1, 0, 0
    for name in names:
        own = name.rstrip(_DIGITS)
        length = len(name) - len(own)
        number = int(name[-length:]) if 0 < length <= MAX_DIGITS else -1
        if number == last + 1 and length == digits and own == stem:
            last = number
            continue
        if digits >= 0:
            found.append(Span(stem, digits, first, last))
        if number < 0:
            found.append(Span(name, 0, 0, 0))
            digits = -1
        else:
            stem, digits, first, last = own, length, number, number
    if digits >= 0:
        found.append(Span(stem, digits, first, last))
    return found


def _span_of(name: str) -> Span:
    stem = name.rstrip(_DIGITS)
    digits = len(name) - len(stem)
    if not 0 < digits <= MAX_DIGITS:
        return Span(name, 0, 0, 0)
    number = int(name[-digits:])
    return Span(stem, digits, number, number)


def _normal(prefix: str, first: int, last: int, width: int) -> Iterator[Span]:
    """Yield the spans of a range: cut where the numbers get longer, digits of the prefix moved."""
    stem = prefix.rstrip(_DIGITS)
    lead = prefix[len(stem) :]
    while first <= last:
        digits = max(width, len(str(first)))
        end = min(last, 10**digits - 1)
        if len(lead) + digits > MAX_DIGITS:
            for i in range(first, end + 1):
                yield Span(f"{prefix}{i:0{digits}d}", 0, 0, 0)
        else:
            base = int(lead or "0") * 10**digits
            yield Span(stem, len(lead) + digits, base + first, base + end)
        first = end + 1


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of consecutive numbers in a sorted list without repetitions."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


def _ranges(spans: list[Span]) -> Iterator[str]:
    """Yield the bracket items of sorted spans of one stem."""
    merged: list[tuple[int, int, int]] = []  # digits of the first number, first, last
    top = 0  # digits of the last number of merged[-1]
    for _, digits, first, last in spans:
        if merged:
            width, low, high = merged[-1]
            longer = digits == top + 1 and first == high + 1 == 10**top  # as in 9,10 or 99,100
            if (digits == top and first <= high + 1) or longer:
                merged[-1] = (width, low, max(last, high))
                top = digits
                continue
        merged.append((digits, first, last))
        top = digits
    for width, low, high in merged:
        for first in range(low, high + 1, MAX_RANGE):
            last = min(high, first + MAX_RANGE - 1)
            text = str(first).zfill(width)
            yield text if first == last else f"{text}-{str(last).zfill(width)}"


def _natural(key: tuple[str, bool]) -> tuple[list[tuple[int, str]], str, bool]:
    """Return the sort key that puts n2c before n10c, and `n` before n[1-2]."""
    stem, numbered = key
    parts = [""]
    for character in stem:
        if (character in _DIGIT) == (len(parts) % 2 == 0):
            parts[-1] += character
        else:
            parts.append(character)
    for i in range(1, len(parts), 2):
        parts[i] = parts[i].lstrip("0")
    return [(len(p) if i % 2 else 0, p) for i, p in enumerate(parts)], stem, numbered
