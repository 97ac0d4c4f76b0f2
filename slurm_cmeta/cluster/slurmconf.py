"""slurm.conf: the nodes, their features and the partitions, read as Slurm reads them.

Follows src/common/parse_config.c (lines, includes) and src/common/read_config.c (NodeName,
PartitionName, NodeSet) of Slurm 22.05.8 and 24.11.5. What one would not expect:

* A comment is cut off before a backslash at the end of the line is looked for, and quotes do not
  protect `#`: `A=1 \\  # text` goes on in the next line, `# text \\` does not.
* `Include` counts in column 1 only; its file name is not quoted and not globbed.
* `Feature= Weight=2` sets the feature `Weight=2`: blanks around `=` are allowed.
* `Feature` and `Features` are two keys; Feature wins, whatever the order, in DEFAULT lines, too.
* A node named twice is fatal in slurmctld ("Duplicated NodeHostName"): nothing overrides.

Keys that this reader does not know are no errors, since releases differ; Slurm refuses them. The
hostlist function `feature{x}` of 24.11 (also block{}, switch{}) stands in PartitionName Nodes= and
in job requests, not in a node's features; it is kept as text.
"""

from __future__ import annotations

import os
import re
import stat

from slurm_cmeta.errors import ClusterError
from slurm_cmeta.kept.sources import SourceFile, of_file
from slurm_cmeta.record import TYPE_CHECKING, NamedTuple
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 32 << 20
"""Most bytes read, all files together. 65,536 nodes (the most that Slurm runs), each with a line of
200 characters, take 13 MB; a mistaken path may name anything."""

MAX_DEPTH = 16
"""Deepest chain of includes. Slurm has no limit and dies of an endless one."""

MAX_FILES = 1000
"""Most files read, so that files which include each other several times come to an end."""

_PAIR = re.compile(rb'\s*([A-Za-z0-9_.]+)\s*[-*+/]?=\s*(?:"([^"]*)"|(\S+))(?!\S)')
"""keyvalue_pattern of parse_config.c: the operator in `Key+=value` is read and not used."""

_COMMENT = re.compile(rb"(?<!\\)((?:\\\\)*)#.*")
_ESCAPE = re.compile(rb"\\(.?)")
_NUMBER = re.compile(rb"(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})[kK]?")

_NODE_KEYS = frozenset(
    b"bcastaddr boards corespeccount corespersocket cpus cpuspeclist cpubind feature features gres "
    b"memspeclimit nodeaddr nodehostname port procs realmemory reason restrictedcorespergpu "
    b"sockets socketsperboard state threadspercore tmpdisk tresweights weight".split()
)
_CPU_KEYS = (b"boards", b"sockets", b"socketsperboard", b"corespersocket", b"threadspercore")
_NODE_FACTS = (
    *(b"feature", b"features", b"state", b"weight", b"gres", b"realmemory", b"cpus"),
    *_CPU_KEYS,
)
_NODE_ONLY = frozenset(
    (b"corespersocket", b"feature", b"features", b"gres", b"nodeaddr", b"realmemory", b"weight")
)
"""Keys that no release takes outside a line. They stand alone where a continuation broke off."""

_Facts = tuple[tuple[str, ...], str, int, str, "int | None", "int | None"]
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_NO_NODES = (b"", b"default", b"all")
_INFINITE_WEIGHT = 0xFFFFFFFE  # INFINITE - 1, as _parse_nodename has it


class NodeLine(NamedTuple):
    """One NodeName line, with what NodeName=DEFAULT gave it."""

    nodes: str
    """Host list, as written."""
    features: tuple[str, ...]
    """In the order written, each once."""
    state: str
    """As written; empty where no State= applies."""
    weight: int
    gres: str
    real_memory: int | None
    """MiB; None where no (readable) RealMemory= applies: Slurm then counts with 1."""
    path: str
    line: int
    cpus: int | None = None
    """Of each node; None where the line does not tell."""

    @property
    def future(self) -> bool:
        """Return whether the nodes are not there yet (State=FUTURE)."""
        return self.state.upper() == "FUTURE"


class PartitionLine(NamedTuple):
    """One PartitionName line, with what PartitionName=DEFAULT gave it."""

    nodes: str
    """Host list that may name node sets and, from 24.11 on, hold functions; empty for no nodes."""
    default: bool

    @property
    def all_nodes(self) -> bool:
        """Return whether every node belongs to the partition."""
        return self.nodes.upper() == "ALL"


class NodeSet(NamedTuple):
    """One NodeSet line: nodes with a feature, nodes in a list, or both together."""

    nodes: str
    feature: str


class Hints(NamedTuple):
    """What lines other than those of nodes say of how jobs are treated."""

    changeable: bool
    """NodeFeaturesPlugins is set."""
    routed: bool
    """JobSubmitPlugins or CliFilterPlugins is set."""
    default_memory: bool
    """A DefMemPer... is set, for all jobs or in a partition."""


class SlurmConf(NamedTuple):
    """What read() found."""

    path: str
    cluster_name: str | None
    """In lower case, as Slurm uses it."""
    nodes: tuple[NodeLine, ...]
    partitions: dict[str, PartitionLine]
    nodesets: dict[str, NodeSet]
    max_node_count: int | None
    """MaxNodeCount: more nodes than are listed may register. Slurm itself heeds it only with
    SelectType=select/cons_tres."""
    options: dict[str, str]
    """The other keys in lower case -> last value, also those of whole lines such as DownNodes."""
    files: tuple[SourceFile, ...]
    hints: Hints


def read(path: str, *, exact: bool = False) -> SlurmConf:
    """Read slurm.conf and what it includes.

    Lines of single nodes that follow each other and say the same become one NodeLine, unless
    `exact` asks for each with its own number.

    Raises ClusterError (`FILE:LINE: reason`) when a file cannot be read or Slurm would refuse what
    it says about nodes and partitions. Host lists are not expanded; see confnodes.py.
    """
    reader = _Reader(path, exact=exact)
    reader.read(path, "")
    return reader.result()


def cluster_name(path: str) -> str | None:
    """Return ClusterName in lower case, None where there is none, without reading all that follows.

    Only where the first file does not name it are the includes read. Raises ClusterError as read().
    """
    found = None
    for _, text in _logical_lines(_Reader(path).first_file()):
        match = _PAIR.match(text)
        if match and match[1].lower() == b"clustername":
            found = match[3] if match[2] is None else match[2]
            break
        if match and match[1].lower() == b"nodename":
            break  # what stands before the nodes is enough for every usual file
    return _text(found).lower() if found else read(path).cluster_name


def hints(path: str) -> Hints:
    """Read the file itself, no include, for what the controller does not tell.

    Raises ClusterError as read().
    """
    keys: set[bytes] = set()
    default_memory = False
    for _, text in _logical_lines(_Reader(path).first_file()):
        lowered = text[:4096].lower()
        if lowered.startswith(b"nodename"):
            continue
        default_memory = default_memory or b"defmemper" in lowered
        match = _PAIR.match(text)
        if match and (match[2] or match[3]):
            keys.add(match[1].lower())
    return _hints(keys, default_memory)


def _hints(keys: set[bytes], default_memory: bool) -> Hints:
    """Return what the keys (in lower case) say that are set outside of node lines."""
    return Hints(
        b"nodefeaturesplugins" in keys,
        not keys.isdisjoint((b"jobsubmitplugins", b"clifilterplugins")),
        default_memory or any(key.startswith(b"defmemper") for key in keys),
    )


class _Words(dict[bytes, tuple[bytes, bytes]]):
    """KEY=VALUE -> (key in lower case, value), each word taken apart once: most lines repeat most.

    Raises ValueError for a word that is not a known key, `=` and a value without quotes.
    """

    def __missing__(self, word: bytes) -> tuple[bytes, bytes]:
        key, _, value = word.partition(b"=")
        key = key.lower()
        if key not in _NODE_KEYS or not value or b'"' in value:
            raise ValueError
        self[word] = key, value
        return key, value


class _Reader:
    """The state of one run through slurm.conf and its includes."""

    def __init__(self, path: str, *, exact: bool = False) -> None:
        self._main = path
        self._exact = exact
        self._files: list[SourceFile] = []
        self._open: list[tuple[int, int]] = []
        self._bytes = 0
        self._nodes: list[NodeLine] = []
        self._node_default: dict[bytes, bytes] = {}
        self._partitions: dict[str, PartitionLine] = {}
        self._partition_default: dict[bytes, bytes] = {}
        self._default_partition: str | None = None
        self._nodesets: dict[str, NodeSet] = {}
        self._options: dict[bytes, bytes] = {}
        self._facts: dict[tuple[bytes | None, ...], _Facts] = {}
        self._words = _Words()
        self._max_node_count: int | None = None
        self._default_memory = False

    def first_file(self) -> bytes:
        """Return the bytes of the main file."""
        return self._load(self._main, "")[0]

    def result(self) -> SlurmConf:
        name = self._options.get(b"clustername")
        return SlurmConf(
            path=self._main,
            cluster_name=_text(name).lower() if name else None,
            nodes=tuple(self._nodes),
            partitions={
                name: partition._replace(default=name == self._default_partition)
                for name, partition in self._partitions.items()
            },
            nodesets=self._nodesets,
            max_node_count=self._max_node_count,
            options={_text(key): _text(value) for key, value in self._options.items()},
            files=tuple(self._files),
            hints=_hints(
                {key for key, value in self._options.items() if value}, self._default_memory
            ),
        )

    def read(self, path: str, where: str) -> None:
        """Read one file; `where` is the prefix `FILE:LINE: ` of the line that includes it."""
        data, identity = self._load(path, where)
        self._open.append(identity)
        like: bytes | None = None
        more: list[bytes] = []
        """Nodes whose lines say the same as the last one that was read."""
        for line, text in _logical_lines(data):
            if text.startswith(b"NodeName="):
                name, _, rest = text[9:].partition(b" ")
                plain = _PLAIN.issuperset(name) and name.lower() not in _NO_NODES
                if plain and rest == like:
                    more.append(name)
                    continue
                self._add_more(more)
                like = rest if plain and not self._exact else None
            else:
                self._add_more(more)
                like = None
            if text[:7].lower() == b"include" and text[7:8].isspace():
                self._include(path, line, text[7:].split())
                continue
            match = _PAIR.match(text)
            if match is None:
                reason = f"not KEY=VALUE: {clean(_text(text.strip()), 60)}"
                if text.strip()[:7].lower() == b"include":
                    reason = "Include must stand in column 1 and name a file"
                raise mistake(path, line, reason)
            key = match[1].lower()
            value = match[3] if match[2] is None else match[2]
            if key == b"nodename":
                self._node(path, line, value, self._attributes(path, line, text[match.end() :]))
            elif key == b"partitionname":
                self._partition(
                    path, line, value, self._attributes(path, line, text[match.end() :])
                )
            elif key == b"nodeset":
                found = self._attributes(path, line, text[match.end() :])
                nodeset = NodeSet(
                    _text(found.get(b"nodes", b"")), _text(found.get(b"feature", b""))
                )
                self._nodesets.setdefault(_text(value), nodeset)
            elif key in _NODE_ONLY:
                reason = f"{_text(match[1])} outside a NodeName line (a broken continuation?)"
                raise mistake(path, line, reason)
            else:
                self._options[key] = value
                if key == b"maxnodecount":
                    self._max_node_count = _number(value)
                    if self._max_node_count is None:
                        raise mistake(path, line, f"MaxNodeCount={clean(_text(value), 60)}")
        self._add_more(more)
        self._open.pop()

    def _add_more(self, names: list[bytes]) -> None:
        """Add nodes to the last line."""
        if names:
            last = self._nodes[-1]
            self._nodes[-1] = last._replace(nodes=",".join((last.nodes, *map(_text, names))))
            names.clear()

    def _load(self, path: str, where: str) -> tuple[bytes, tuple[int, int]]:
        shown = where + clean(path)
        try:
            # A FIFO must not block: O_NONBLOCK, and only regular files are read.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            raise ClusterError(f"{shown}: {error.strerror}") from None
        except ValueError:  # a NUL in the path
            raise ClusterError(f"{shown}: not a path") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ClusterError(f"{shown}: not a regular file")
            identity = (status.st_dev, status.st_ino)
            if identity in self._open:
                raise ClusterError(f"{shown}: includes itself")
            if len(self._open) > MAX_DEPTH:
                raise ClusterError(f"{shown}: more than {MAX_DEPTH} includes inside each other")
            if len(self._files) >= MAX_FILES:
                raise ClusterError(f"{shown}: more than {MAX_FILES} files")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES - self._bytes + 1)
        except OSError as error:
            raise ClusterError(f"{shown}: {error.strerror}") from None
        finally:
            os.close(descriptor)
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise ClusterError(f"{shown}: more than {MAX_BYTES >> 20} MiB of configuration")
        if b"\0" in data:
            raise ClusterError(f"{shown}: not a text file")
        self._files.append(of_file(path, status))
        return data, identity

    def _include(self, path: str, line: int, words: list[bytes]) -> None:
        if len(words) != 1:
            raise mistake(path, line, "Include takes one file name")
        name = words[0]
        if b"%c" in name:
            if not self._options.get(b"clustername"):
                raise mistake(path, line, "Include with %c before ClusterName")
            name = name.replace(b"%c", self._options[b"clustername"].lower())
        if b"*" in name:
            reason = f"Include {clean(_text(name))}: Slurm expands no wildcards"
            raise mistake(path, line, reason)
        # 24.11 looks beside slurm.conf (get_extra_conf_path), 22.05 beside the including file.
        target = os.path.join(os.path.dirname(self._main), _text(name))
        beside = os.path.join(os.path.dirname(path), _text(name))
        if not os.path.exists(target) and os.path.exists(beside):
            target = beside
        self.read(target, f"{clean(path)}:{line}: Include ")

    def _attributes(self, path: str, line: int, text: bytes) -> dict[bytes, bytes]:
        """Return the pairs in the rest of a line, keys in lower case; of equal keys the last."""
        try:
            return dict(map(self._words.__getitem__, text.split()))
        except ValueError:  # blanks around `=`, quotes, an unknown key, or a mistake
            pass
        found: dict[bytes, bytes] = {}
        position = 0
        while match := _PAIR.match(text, position):
            found[match[1].lower()] = match[3] if match[2] is None else match[2]
            position = match.end()
        rest = text[position:].strip()
        if rest:
            raise mistake(path, line, f"not KEY=VALUE: {clean(_text(rest), 60)}")
        return found

    def _node(self, path: str, line: int, value: bytes, found: dict[bytes, bytes]) -> None:
        upper = value.upper()
        if upper == b"DEFAULT":
            self._node_default = {**self._node_default, **found}
            self._facts.clear()
            return
        if not value or upper == b"ALL":
            raise mistake(path, line, f"NodeName={clean(_text(value))} is not a node name")
        key = tuple(map(found.get, _NODE_FACTS))
        facts = self._facts.get(key)
        if facts is None:
            facts = self._facts[key] = _node_facts(self._node_default, found)
        features, state, weight, gres, memory, cpus = facts
        self._nodes.append(
            NodeLine(_text(value), features, state, weight, gres, memory, path, line, cpus)
        )

    def _partition(self, path: str, line: int, value: bytes, found: dict[bytes, bytes]) -> None:
        self._default_memory = self._default_memory or any(
            key.startswith(b"defmemper") for key in found
        )
        if value.upper() == b"DEFAULT":
            self._partition_default = {**self._partition_default, **found}
            return
        found = {**self._partition_default, **found}
        name = _text(value)
        if name in self._partitions:
            raise mistake(path, line, f"partition {clean(name)} is named twice")
        if found.get(b"default", b"").lower() in (b"yes", b"up", b"true", b"1"):
            self._default_partition = name
        nodes = b",".join(found.get(b"nodes", b"").split())
        self._partitions[name] = PartitionLine(_text(nodes), False)


def _logical_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number of its first line, text) for each line that is not blank.

    Comments are cut off, continued lines put together and escapes resolved, in that order, as
    _get_next_line does. The text keeps its leading blanks.
    """
    pending: list[bytes] = []
    start = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        if b"#" in line:
            line = _COMMENT.sub(rb"\1", line)
        if b"\\" in line or pending:
            stripped = line.rstrip()
            if (len(stripped) - len(stripped.rstrip(b"\\"))) % 2:
                pending.append(stripped[:-1])
                start = start or number
                continue
            line = b"".join(pending) + line
            pending.clear()
            if b"\\" in line:
                line = _ESCAPE.sub(rb"\1", line)
        if not line.isspace() and line:
            yield start or number, line
        start = 0
    if pending:
        yield start, _ESCAPE.sub(rb"\1", b"".join(pending))


def _node_facts(default: dict[bytes, bytes], found: dict[bytes, bytes]) -> _Facts:
    """Return features, state, weight, gres, memory and CPUs of a NodeName line."""
    merged = {**default, **found}
    features = found.get(b"feature", found.get(b"features"))
    if features is None:
        features = default.get(b"feature", default.get(b"features", b""))
    memory = merged.get(b"realmemory")
    weight = merged.get(b"weight")
    return (
        tuple(dict.fromkeys(filter(None, _text(features).split(",")))),
        _text(merged.get(b"state", b"")),
        1 if weight is None else _weight(weight),
        _text(merged.get(b"gres", b"")),
        None if memory is None else _number(memory),
        _cpus(merged),
    )


def _cpus(merged: dict[bytes, bytes]) -> int | None:
    """Return the CPUs of a node, as stated or by its sockets, cores and threads; None if neither.

    What the line leaves out, slurmctld takes for one (read_config.c, _check_node_name).
    """
    if b"cpus" in merged:
        return _number(merged[b"cpus"])
    if not any(key in merged for key in _CPU_KEYS):
        return None
    count = 1
    for key in _CPU_KEYS:
        if key == b"boards" and b"sockets" in merged:
            continue
        number = _number(merged[key]) if key in merged else 1
        if number is None:
            return None
        count *= number
    return count


def _number(value: bytes) -> int | None:
    """Return a number as s_p_handle_uint64 reads it (0x.. and 0.. too, k for 1024), or None."""
    if not _NUMBER.fullmatch(value):
        return None
    factor = 1
    if value[-1:] in b"kK":
        factor, value = 1024, value[:-1]
    if value[:1] == b"0" and value[1:2].isdigit():
        value = b"0o" + value[1:]
    try:
        return int(value, 0) * factor
    except ValueError:  # 08
        return None


def _weight(value: bytes) -> int:
    if value.upper() in (b"INFINITE", b"UNLIMITED"):
        return _INFINITE_WEIGHT
    number = _number(value)
    return 1 if number is None else number


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def mistake(path: str, line: int, reason: str) -> ClusterError:
    """Return the error `FILE:LINE: reason`."""
    return ClusterError(f"{clean(path)}:{line}: {reason}")
