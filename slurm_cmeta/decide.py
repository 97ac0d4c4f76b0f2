"""One submission, one decision: requirements, node classes and the user's own wishes put together.

Pure functions: what was read from files comes in as arguments, what is to be said goes out as text
(words.py).
"""

from __future__ import annotations

from slurm_cmeta import compare, match, nodefacts, preference, vocabulary, words
from slurm_cmeta.cluster.reach import reach
from slurm_cmeta.constraint.addition import add
from slurm_cmeta.constraint.grammar import Constraint, parse
from slurm_cmeta.constraint.select import Expression, select, widest
from slurm_cmeta.policy import ACCEPT, ADD, ADVISE, RAISE, REJECT, WARN, Policy
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.requirement import HARD
from slurm_cmeta.shape import PLAIN, Shape, fits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm_cmeta.cluster import Cluster
    from slurm_cmeta.match import ClassVerdict
    from slurm_cmeta.nodefacts import SiteNames
    from slurm_cmeta.requirement import Requirement

UNKNOWN = "unknown"

MAX_EXCLUDE = 16_384
"""Characters of an exclude list; a longer one gives way to a wider expression."""

MAX_PREFERRED = 4
"""Alternatives in a preference that say nothing of what is preferred."""


class Wishes(NamedTuple):
    """What the user asked of Slurm; empty means not given."""

    constraint: str = ""
    prefer: str = ""
    partitions: str = ""
    nodelist: str = ""
    exclude: str = ""
    memory: bool = False
    """Whether any option asks for memory."""
    gpus: bool = False
    """Whether any option asks for a GPU."""
    shape: Shape = PLAIN
    """How much the job asks for."""


class Decision(NamedTuple):
    """What becomes of one submission."""

    verdict: str
    """`match`, `mismatch`, or `unknown` when nothing could be compared."""
    action: str
    """`accept` or `reject`."""
    constraint: str | None = None
    """The whole expression for the job, the user's own included; None: leave the user's."""
    prefer: str | None = None
    """The same for --prefer."""
    exclude: str | None = None
    """Nodes to exclude besides the user's own; only where no expression can say it."""
    memory: int | None = None
    """MiB for --mem, where the user asked for none and the image does."""
    gres: str | None = None
    """For --gres, where the user asked for no GPU, the image does, and the site adds one."""
    classes: tuple[ClassVerdict, ...] = ()
    """The classes that the job reaches."""
    messages: tuple[str, ...] = ()
    """What the user should read, in order; nothing when the job is left as it is."""


class _Addition(NamedTuple):
    """What the image's requirements add to a job."""

    constraint: str | None = None
    """The whole constraint; None: leave the user's."""
    expression: Expression | None = Expression(())
    """What was added, and has to be in --prefer, too; None when nothing could be."""
    exclude: str | None = None
    note: str = ""
    """Why nodes are excluded, in words for people."""
    left: int = 0
    """Nodes that cannot run the image and that the job may get all the same."""


def decide(
    image: str,
    requirements: Sequence[Requirement],
    cluster: Cluster,
    wishes: Wishes,
    policy: Policy | None = None,
    others: Sequence[Sequence[Requirement]] = (),
) -> Decision:
    """Return the decision for one submission. `image` is the image's path, for messages.

    `others` is what each other variant of the image needs: a node that can run any of them will do.
    Where the cluster may have nodes that are not listed (dynamic nodes, a stale snapshot), nothing
    is refused for want of a node.
    """
    policy = policy or Policy()
    place = reach(cluster, wishes.partitions, wishes.nodelist, wishes.exclude)
    variants = (requirements, *others)
    asked = [r for variant in variants for r in variant] if others else requirements
    verdicts = tuple(match.judge_any(variants, c, policy.names) for c in place.classes)
    user = parse(wishes.constraint)
    # A NodeFeatures plugin, or a node that is not listed, may have a feature that none has here.
    reached = verdicts
    if user is not None and not cluster.changeable and not cluster.unlisted_nodes:
        reached = tuple(v for v in verdicts if user.allows(v.nodes.features))
    fit = [v for v in reached if v.verdict == compare.MATCH]
    unfit = [v for v in reached if v.verdict != compare.MATCH]
    if not reached:  # an empty cluster, or names that no node has all of: slurmctld says so
        return Decision(UNKNOWN, ACCEPT, classes=verdicts)
    demanded = [
        v
        for v in (match.judge_any(variants, c, policy.names) for c in place.demanded)
        if v.verdict != compare.MATCH
    ]
    if not fit or demanded:
        why = words.no_node(
            image,
            requirements,
            demanded or reached,
            words.among(place.limited, bool(demanded), len(reached) < len(verdicts)),
            others,
        )
        return _refused(why, verdicts, cluster, policy)
    checked = any(r.verdict != compare.UNCHECKED for v in reached for r in v.reasons)
    if not checked and policy.on_unknown != ACCEPT:
        return _unknown(words.unknown(image, asked), verdicts, cluster, policy)
    rank = Rank(asked, reached, policy.names)
    addition = _addition(fit, unfit, user, wishes, rank, cluster.changeable)
    better, made = preference.best(fit, asked, policy)
    if not wishes.prefer and not _room(better, cluster, wishes):
        better = fit
    prefer = _prefer(fit, unfit, better, user, wishes, rank, addition, cluster.changeable)
    wanted = _memory(asked, wishes, policy)
    memory = wanted
    if cluster.default_memory or not any(_has_memory(v, wanted) for v in fit):
        memory = None
    gres, advice = _gpus(variants, wishes, policy, fit)
    done = words.Done(
        *(addition.constraint, prefer, addition.exclude, addition.note, addition.left),
        memory,
        gres,
    )
    messages = words.narrowed(image, requirements, verdicts, fit, done, others, made=made)
    return Decision(
        compare.MATCH if checked else UNKNOWN,
        ACCEPT,
        addition.constraint,
        prefer,
        addition.exclude,
        memory,
        gres,
        verdicts,
        (
            *messages,
            *(words.memory_advice(image, asked, wanted) if wanted != memory else ()),
            *(words.advice(image, asked) if advice else ()),
        ),
    )


def _room(better: Sequence[ClassVerdict], cluster: Cluster, wishes: Wishes) -> bool:
    """Tell whether the better nodes alone could surely hold the job, wherever it is sent.

    slurmctld refuses a job at submit whose preference could never be met. Where a filter may choose
    the partition, they have to do so in each.
    """
    if wishes.nodelist or wishes.gpus:
        return False
    if not fits(wishes.shape, [v.nodes for v in better]):
        return False
    if wishes.partitions or not cluster.routed:
        return True
    if wishes.exclude:
        return False
    sets = {frozenset(v.nodes.features) for v in better}
    members = [c for c in cluster.classes if frozenset(c.features) in sets]
    return all(
        partition.exact
        and fits(wishes.shape, [c for c in members if partition.name in (c.partitions or ())])
        for partition in cluster.partitions or ()
    )


def _refused(
    why: str, verdicts: tuple[ClassVerdict, ...], cluster: Cluster, policy: Policy
) -> Decision:
    if cluster.unlisted_nodes:
        return Decision(
            UNKNOWN, ACCEPT, classes=verdicts, messages=(f"warning: {why}; others may",)
        )
    if policy.on_mismatch == REJECT:
        return Decision(compare.MISMATCH, REJECT, classes=verdicts, messages=(f"error: {why}",))
    return Decision(compare.MISMATCH, ACCEPT, classes=verdicts, messages=(f"warning: {why}",))


def _unknown(
    why: str, verdicts: tuple[ClassVerdict, ...], cluster: Cluster, policy: Policy
) -> Decision:
    if policy.on_unknown == WARN or cluster.unlisted_nodes:
        return Decision(UNKNOWN, ACCEPT, classes=verdicts, messages=(f"warning: {why}",))
    return Decision(UNKNOWN, REJECT, classes=verdicts, messages=(f"error: {why}",))


def _addition(
    fit: Sequence[ClassVerdict],
    unfit: Sequence[ClassVerdict],
    user: Constraint | None,
    wishes: Wishes,
    rank: Rank,
    changeable: bool,
) -> _Addition:
    """Return what keeps the job off the nodes that do not fit, exactly or nearly."""
    if not unfit:
        return _Addition()
    wanted, unwanted = _features(fit), _features(unfit)
    found = select(wanted, unwanted, rank)
    prefer = parse(wishes.prefer)
    if user is None or prefer is None:
        note = "the job's own expression is kept as it is"
    elif found is None:
        note = "no expression over the nodes' features tells them apart"
    else:
        constraint = add(user, found, changeable=changeable)
        preferred = add(prefer, found, changeable=changeable) if wishes.prefer else ""
        if constraint is not None and preferred is not None:
            return _Addition(_changed(constraint, wishes.constraint), found)
        note = "the job's own expression cannot carry it"
    exclude = ",".join(v.nodes.nodes for v in unfit)
    if len(exclude) <= MAX_EXCLUDE:
        return _Addition(None, None, exclude, note)
    return _wider(wanted, unfit, user, wishes, rank, changeable)


def _wider(
    wanted: Sequence[frozenset[str]],
    unfit: Sequence[ClassVerdict],
    user: Constraint | None,
    wishes: Wishes,
    rank: Rank,
    changeable: bool,
) -> _Addition:
    """Return an expression that all nodes that fit satisfy, and as few others as possible."""
    if user is not None and not wishes.prefer:
        found = widest(wanted, _features(unfit), rank)
        constraint = add(user, found, changeable=changeable)
        if constraint is not None:
            left = sum(v.nodes.node_count for v in unfit if found.allows(v.nodes.features))
            return _Addition(_changed(constraint, wishes.constraint), found, left=left)
    return _Addition(expression=None, left=sum(v.nodes.node_count for v in unfit))


def _changed(text: str | None, before: str) -> str | None:
    return text if text != before else None


def _features(verdicts: Sequence[ClassVerdict]) -> list[frozenset[str]]:
    return [frozenset(v.nodes.features) for v in verdicts]


def _prefer(
    fit: Sequence[ClassVerdict],
    unfit: Sequence[ClassVerdict],
    better: Sequence[ClassVerdict],
    user: Constraint | None,
    wishes: Wishes,
    rank: Rank,
    addition: _Addition,
    changeable: bool,
) -> str | None:
    """Return the job's --prefer expression, or None to leave it.

    Slurm tries `prefer` in place of the constraint, so everything that the constraint demands has
    to be in it, too.
    """
    if user is None or addition.expression is None:
        return None
    if wishes.prefer:
        return _own_preference(fit, wishes, addition.expression, addition.constraint, changeable)
    if len(better) == len(fit):
        return None
    others = [*(v for v in fit if v not in better), *unfit]
    closest = select(_features(better), _features(others), rank)
    if closest is None:
        return None
    if len(closest.group) > MAX_PREFERRED and any(rank(name) > 1 for name in closest.group):
        return None  # names that have nothing to do with it, and more of them than anybody reads
    names = tuple(dict.fromkeys((*addition.expression.names, *closest.names)))
    whole = Expression((), closest.group or addition.expression.group).without(names)
    whole = whole._replace(names=names)
    return add(user, whole, changeable=changeable)


def _own_preference(
    fit: Sequence[ClassVerdict],
    wishes: Wishes,
    added: Expression,
    constraint: str | None,
    changeable: bool,
) -> str | None:
    """Return what becomes of the user's own preference.

    Where none of the nodes that fit is preferred, slurmctld would refuse the job for its
    preference: then it is the constraint once more, which prefers nothing.
    """
    own = parse(wishes.prefer)
    if own is None:
        return None
    if not own.counted and not changeable and not any(own.allows(v.nodes.features) for v in fit):
        return constraint or wishes.constraint or None
    return _changed(add(own, added, changeable=changeable), wishes.prefer)


class Rank:
    """Orders feature names by how well they say what is required; see select.select().

    0: the very thing that is required; 1: something of what made the difference (`cuda=12.4` where
    CUDA did); 2: anything else that happens to fit.
    """

    def __init__(
        self,
        requirements: Sequence[Requirement],
        verdicts: Sequence[ClassVerdict],
        names: SiteNames,
    ) -> None:
        self._values = {r.value for r in requirements}
        reasons = [r for v in verdicts for r in v.reasons if r.verdict == compare.MISMATCH]
        self._decisive = {r.key for r in reasons}
        for one in requirements:
            if one.key in self._decisive:
                self._decisive |= {key for other in one.alternatives for key, _, _ in other}
        self._names = names
        self._known: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        if name not in self._known:
            meant = self._names.explained([name])
            if any(vocabulary.feature_target(one) in self._values for one in meant):
                self._known[name] = 0
            else:
                said = nodefacts.keys_of(name, self._names)
                self._known[name] = 1 if said & self._decisive else 2
        return self._known[name]


def _memory(requirements: Sequence[Requirement], wishes: Wishes, policy: Policy) -> int | None:
    """Return the memory in MiB that the image asks for, where nobody else asks for any."""
    stated = [int(r.value) for r in requirements if r.key == "memory" and r.value.isdecimal()]
    return max(stated) if stated and policy.memory == RAISE and not wishes.memory else None


def _has_memory(verdict: ClassVerdict, wanted: int | None) -> bool:
    """Tell whether nodes state enough memory: slurmctld refuses a job that no node can hold."""
    memory = verdict.nodes.memory
    return wanted is not None and memory is not None and memory[1] >= wanted


def _gpus(
    variants: Sequence[Sequence[Requirement]],
    wishes: Wishes,
    policy: Policy,
    fit: Sequence[ClassVerdict],
) -> tuple[str | None, bool]:
    """Return what to add to --gres, and whether to advise the user to ask for a GPU.

    Where no node that fits has a GPU in its Gres, Slurm would refuse the job for asking.
    """
    needs = all(any(r.key == "gpu" and r.strength == HARD for r in one) for one in variants)
    if not needs or wishes.gpus:
        return None, False
    if policy.gpu_request == ADD and any("gpu" in text for v in fit for text in v.nodes.gres):
        return "gpu:1", False
    return None, policy.gpu_request in (ADD, ADVISE)
