"""The files in a squashfs, read by libsquashfs (squashfs-tools-ng, LGPL) through cffi.

libsquashfs reads nothing by itself here: it asks for bytes through a callback, which keeps it
inside the partition, counts what it reads, and ends it when the budget is used up. Only what is
looked up is read: directories on the way to a file, its inode, and the blocks that are asked for.

Format: Documentation/filesystems/squashfs.rst of Linux, doc/format.adoc of squashfs-tools-ng.
"""

from __future__ import annotations

import os

from slurm_cmeta import sitepackages
from slurm_cmeta.image.filetree import (
    DIRECTORY,
    FILE,
    MAX_PATH,
    OTHER,
    SYMLINK,
    Entry,
    FileTree,
    TreeError,
    joined,
)
from slurm_cmeta.record import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from slurm_cmeta.image.content import Warnings
    from slurm_cmeta.image.filetree import Budget
    from slurm_cmeta.image.reader import Reader

MAGIC = b"hsqs"

LIBRARY = "libsquashfs.so.1"
HOW_TO_GET = "install libsquashfs (Debian: libsquashfs1 and python3-cffi-backend, EPEL: \
squashfs-tools-ng and python3-cffi)"

MAX_CALL_READS = 4096
"""Pieces of the file that one call into libsquashfs may read: 2,048 metadata blocks of 8 KiB, which
is a directory of half a million names, or the block list of a file of 500 GB."""

MAX_KEPT = 1024
"""Bytes of a file's list of blocks that an entry holds on to: 256 blocks, 32 MiB of a file at the
usual size. Longer lists are read again when the file is."""

MAX_LISTS = 16 * 1024 * 1024
"""Bytes of longer lists that are kept, those last used."""

MAX_PIECE = 2 * 1024 * 1024
"""Bytes of one such piece: a block has at most 1 MiB, and does not grow when it is packed."""

_CHUNK = 1024 * 1024
_UNPACK_ONLY = 0x8000
_LZO = 3
_COMPRESSORS = {1: "gzip", 2: "lzma", _LZO: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_ERROR_IO = -2
_ERROR_COMPRESSOR = -3
_ERROR_UNSUPPORTED = -6
_ERROR_BOUNDS = -8
_ERROR_NO_ENTRY = -13
_ERRORS = {
    -1: "out of memory, or its sizes are absurd",
    _ERROR_IO: "reading failed",
    _ERROR_COMPRESSOR: "the packed data is damaged",
    -4: "internal error",
    -5: "the file system is damaged",
    _ERROR_UNSUPPORTED: "not supported",
    -7: "a number in it is too large",
    _ERROR_BOUNDS: "it points outside of itself",
    -9: "no squashfs",
    -10: "a squashfs of another version",
    -11: "its block size is invalid",
    -12: "no directory",
    -14: "links in a circle",
    -15: "no file",
}
_KINDS = {1: DIRECTORY, 2: FILE, 3: SYMLINK}
"""Basic inode types (squashfs.rst); the extended ones are 7 higher."""


class NotReadableError(Exception):
    """The squashfs cannot be opened; the message says why."""


def open_squashfs(
    reader: Reader, offset: int, size: int, what: str, warnings: Warnings, budget: Budget
) -> FileTree | None:
    """Return the files in a squashfs, or None where they cannot be read: a warning says why.

    The file system lies `size` bytes long at `offset` of the file; `what` names it in warnings.
    """
    try:
        return SquashfsTree(reader, offset, size, what, warnings, budget)
    except NotReadableError as problem:
        text = f"{what} {problem}: only header and metadata were looked at"
        warnings.add(text, passing=True)  # the library may be installed tomorrow
        return None


class SquashfsTree(FileTree):
    """The files in the squashfs that lies at `offset` in a file, `size` bytes long."""

    def __init__(
        self, reader: Reader, offset: int, size: int, what: str, warnings: Warnings, budget: Budget
    ) -> None:
        """Open the file system; raise NotReadableError if that cannot be done."""
        super().__init__(warnings, budget, what)
        ffi, library = _library()
        self._ffi, self._lib = ffi, library
        self._window = _Window(reader, offset, size, budget, ffi)
        self._file, *self._file_parts = _new_file(ffi, self._window)
        self._data: Any = None
        self._super = ffi.new("sqfs_super_t *")
        self._check_open(library.sqfs_super_read(self._super, self._file))
        self._unpacker = self._new_unpacker()
        self._directories = self._new_directories()
        self._lists: dict[str, Any] = {}
        self._lists_size = 0
        self._at_root = self._root()

    def _new_directories(self) -> Any:
        """Return a reader of directories, which is at one place in one of them."""
        return self._owned(
            self._lib.sqfs_dir_reader_create(self._super, self._unpacker, self._file, 0)
        )

    def _new_unpacker(self) -> Any:
        if self._super.compression_id == _LZO:
            unpacker, *self._unpacker_parts = _lzo_unpacker(self._ffi)
            return unpacker
        config = self._ffi.new("sqfs_compressor_config_t *")
        self._check_open(
            self._lib.sqfs_compressor_config_init(
                config, self._super.compression_id, self._super.block_size, _UNPACK_ONLY
            )
        )
        out = self._ffi.new("sqfs_compressor_t **")
        self._check_open(self._lib.sqfs_compressor_create(config, out))
        return self._owned(out[0])

    def _owned(self, pointer: Any) -> Any:
        """Return a pointer to an object of libsquashfs that is freed with the Python object."""
        if pointer == self._ffi.NULL:
            raise NotReadableError("cannot be opened: out of memory")
        return self._ffi.gc(pointer, _destroy(self._ffi))

    def _check_open(self, code: int) -> None:
        problem = self._window.take_problem()
        if problem:
            raise NotReadableError(f"cannot be opened: {problem}")
        if code == _ERROR_UNSUPPORTED and self._super.compression_id:
            name = _COMPRESSORS.get(self._super.compression_id, str(self._super.compression_id))
            raise NotReadableError(f"cannot be opened: this libsquashfs does not unpack {name}")
        if code:
            raise NotReadableError(f"cannot be opened: {_ERRORS.get(code, f'error {code}')}")

    def _check(self, code: int) -> int:
        problem = self._window.take_problem()
        if problem:
            raise problem
        if code < 0:
            raise TreeError(_ERRORS.get(code, f"error {code}"))
        return code

    def _inode(self, call: Any, directories: Any) -> Any:
        out = self._ffi.new("sqfs_inode_generic_t **")
        self._check(call(directories, out))
        if out[0] == self._ffi.NULL:
            raise TreeError("no inode")
        return self._ffi.gc(out[0], self._lib.sqfs_free)

    def _entry(self, path: str, inode: Any, above: Any) -> Entry:
        """Return an entry; its handle is the inode, or `above`, that of its directory, where the
        inode of a file takes too much memory to be kept.
        """
        kind = _KINDS.get(_basic(inode), OTHER)
        size = 0
        if kind == FILE:
            out = self._ffi.new("uint64_t *")
            self._check(self._lib.sqfs_inode_get_file_size(inode, out))
            size = min(int(out[0]), (1 << 63) - 1)
        mode = int(inode.mode) & 0o7777
        if kind == FILE and int(inode.payload_bytes_available) > MAX_KEPT:
            return Entry(path, kind, size, mode, above)
        return Entry(path, kind, size, mode, inode)

    def _inode_of(self, file: Entry) -> Any:
        """Return the inode of a file, read again where the entry does not hold it."""
        if _KINDS.get(_basic(file.handle)) == FILE:
            return file.handle
        inode = self._lists.pop(file.path, None)
        if inode is None:
            name = file.path.rpartition("/")[2]
            inode = self._find_inode(file.handle, name)
            if inode is None or _KINDS.get(_basic(inode)) != FILE:
                raise TreeError("the directory that held it does not any more")
            self._lists_size += int(inode.payload_bytes_available)
        self._lists[file.path] = inode  # the last used one is the last in the dictionary
        while self._lists_size > MAX_LISTS and len(self._lists) > 1:
            oldest = self._lists.pop(next(iter(self._lists)))
            self._lists_size -= int(oldest.payload_bytes_available)
        return inode

    def _root(self) -> Entry:
        self._window.begin()
        try:
            inode = self._inode(self._lib.sqfs_dir_reader_get_root_inode, self._directories)
            return self._entry("/", inode, None)
        except TreeError as problem:
            raise NotReadableError(f"has no root directory: {problem}") from None

    def _number(self, directory: Entry) -> object:
        return int(directory.handle.inode_number)

    def _child(self, directory: Entry, name: str) -> Entry | None:
        inode = self._find_inode(directory.handle, name)
        if inode is None:
            return None
        return self._entry(joined(directory, name), inode, directory.handle)

    def _find_inode(self, directory: Any, name: str) -> Any:
        """Return the inode of `name` in the directory of that inode, None if it is not there."""
        self._window.begin()
        self._check(self._lib.sqfs_dir_reader_open_dir(self._directories, directory, 0))
        code = self._lib.sqfs_dir_reader_find(self._directories, os.fsencode(name))
        if code == _ERROR_NO_ENTRY and not self._window.problem:
            return None
        self._check(code)
        return self._inode(self._lib.sqfs_dir_reader_get_inode, self._directories)

    def _names(self, directory: Entry) -> Iterator[tuple[str, str]]:
        for name, kind, _ in self._listing(directory):
            yield name, kind

    def _listing(self, directory: Entry) -> Iterator[tuple[str, str, Any]]:
        """Yield name and kind of each entry, and the reader that is at it.

        A reader for each listing, because the caller may look up something else meanwhile. What
        all steps of a listing read is bounded as if they were one call.
        """
        out = self._ffi.new("sqfs_dir_entry_t **")
        try:
            reader = self._new_directories()
        except NotReadableError:
            raise TreeError(_ERRORS[-1]) from None
        self._window.begin()
        self._check(self._lib.sqfs_dir_reader_open_dir(reader, directory.handle, 0))
        while True:
            code = self._lib.sqfs_dir_reader_read(reader, out)
            left = self._window.left
            if self._check(code):
                return
            entry = self._ffi.gc(out[0], self._lib.sqfs_free)
            name = bytes(self._ffi.buffer(entry.name, int(entry.size) + 1))
            yield os.fsdecode(name), _KINDS.get(int(entry.type), OTHER), reader
            self._window.begin(left)

    def _children(self, directory: Entry) -> Sequence[Entry]:
        """Return files and directories with their inodes, in one pass over the directory."""
        found: list[Entry] = []
        try:
            for name, kind, reader in self._listing(directory):
                if kind not in (FILE, DIRECTORY) or name in (".", "..", "") or "/" in name:
                    continue
                self.budget.spend()
                self._window.begin()
                inode = self._inode(self._lib.sqfs_dir_reader_get_inode, reader)
                found.append(self._entry(joined(directory, name), inode, directory.handle))
        except TreeError as problem:
            self._lost(directory.path, problem)
        return [entry for entry in found if entry.kind in (FILE, DIRECTORY)]

    def _target(self, link: Entry) -> str:
        inode = link.handle
        size = int(inode.data.slink.target_size)
        if size > MAX_PATH or size > int(inode.payload_bytes_available):
            raise TreeError("the target of a link is too long")
        target = bytes(self._ffi.buffer(self._ffi.cast("uint8_t *", inode.extra), size))
        return os.fsdecode(target.split(b"\0", 1)[0])

    def _read(self, file: Entry, offset: int, size: int) -> bytes:
        if self._data is None:
            self._open_data()
        inode = self._inode_of(file)
        whole = bytearray()
        while len(whole) < size:
            wanted = min(size - len(whole), _CHUNK)
            buffer = self._ffi.new("uint8_t[]", wanted)
            self._window.begin()
            got = self._check(
                self._lib.sqfs_data_reader_read(
                    self._data, inode, offset + len(whole), buffer, wanted
                )
            )
            if not 0 < got <= wanted:
                raise TreeError("it is shorter than it states")
            whole += self._ffi.buffer(buffer, got)
        return bytes(whole)

    def _open_data(self) -> None:
        self._window.begin()
        data = self._lib.sqfs_data_reader_create(
            self._file, self._super.block_size, self._unpacker, 0
        )
        if data == self._ffi.NULL:
            raise TreeError("out of memory")
        data = self._ffi.gc(data, _destroy(self._ffi))
        self._check(self._lib.sqfs_data_reader_load_fragment_table(data, self._super))
        self._data = data


class _Window:
    """The bytes that libsquashfs may read: a part of our file, with a meter.

    C holds references to its methods, and Python cannot see those: nothing that owns them may be
    referred to from here, or neither would ever be freed.
    """

    def __init__(self, reader: Reader, offset: int, size: int, budget: Budget, ffi: Any) -> None:
        self._ffi = ffi
        self._reader = reader
        self._offset = offset
        self._size = size
        self._budget = budget
        self.left = MAX_CALL_READS
        self.problem: TreeError | None = None

    def begin(self, left: int = MAX_CALL_READS) -> None:
        """Allow the next call into libsquashfs its share of reading."""
        self.left = left
        self.problem = None

    def take_problem(self) -> TreeError | None:
        """Return, once, why reading failed if it was for a reason of ours."""
        problem, self.problem = self.problem, None
        return problem

    def read_at(self, _file: Any, offset: int, buffer: Any, size: int) -> int:
        """Serve libsquashfs. Nothing may be raised through C: it would be printed and lost."""
        self.left -= 1
        if offset + size > self._size or size > MAX_PIECE:
            return _ERROR_BOUNDS
        try:
            if self.left < 0:
                raise TreeError("too much would have to be read for it")
            self._budget.spend(size)
            self._reader.read_into(self._offset + offset, self._ffi.buffer(buffer, size))
        except TreeError as problem:
            self.problem = problem
            return _ERROR_IO
        except Exception as problem:
            self.problem = TreeError(str(problem))
            return _ERROR_IO
        return 0

    def get_size(self, _file: Any) -> int:
        """Return the size of the window in bytes."""
        return self._size


def _basic(inode: Any) -> int:
    """Return the type of an inode as that of a basic one."""
    number = int(inode.type)
    return number if number < 8 else number - 7


def _new_file(ffi: Any, window: _Window) -> tuple[Any, ...]:
    """Return a sqfs_file_t, and what has to live as long as it."""
    callbacks = (
        ffi.callback("int(*)(sqfs_file_t *, uint64_t, void *, size_t)", window.read_at, error=-2),
        ffi.callback("uint64_t(*)(const sqfs_file_t *)", window.get_size, error=0),
        ffi.callback("void(*)(sqfs_object_t *)", _keep),
    )
    file = ffi.new("sqfs_file_t *")
    file.read_at, file.get_size, file.base.destroy = callbacks
    return file, *callbacks


def _keep(_object: Any) -> None:
    """Do nothing: the object belongs to Python."""


def _lzo_unpacker(ffi: Any) -> tuple[Any, ...]:
    """Return an LZO unpacker made of liblzo2 for libsquashfs, which has none, and its parts."""
    try:
        lzo = ffi.dlopen("liblzo2.so.2")
    except OSError:
        raise NotReadableError(
            "is packed with LZO: install liblzo2 (Debian: liblzo2-2) to have it read"
        ) from None

    def unpack(_self: Any, packed: Any, size: int, out: Any, room: int) -> int:
        length = ffi.new("size_t *", room)
        code = lzo.lzo1x_decompress_safe(packed, size, out, length, ffi.NULL)
        return int(length[0]) if code == 0 else _ERROR_COMPRESSOR

    callbacks = (
        ffi.callback(
            "int32_t(*)(sqfs_compressor_t *, const uint8_t *, uint32_t, uint8_t *, uint32_t)",
            unpack,
            error=_ERROR_COMPRESSOR,
        ),
        ffi.callback("void(*)(sqfs_object_t *)", _keep),
        ffi.callback("sqfs_object_t *(*)(const sqfs_object_t *)", lambda _original: ffi.NULL),
    )
    unpacker = ffi.new("sqfs_compressor_t *")
    unpacker.do_block, unpacker.base.destroy, unpacker.base.copy = callbacks
    return unpacker, *callbacks


_loaded: list[Any] = []


def _library() -> tuple[Any, Any]:
    """Return cffi's interface and the loaded library; raise NotReadableError without them."""
    if not _loaded:
        sitepackages.find()
        try:
            from slurm_cmeta.image.libsquashfs_abi import ffi
        except ImportError:
            raise NotReadableError(f"is not read: cffi is not installed; {HOW_TO_GET}") from None
        try:
            _loaded.extend((ffi, ffi.dlopen(LIBRARY)))
        except OSError:
            raise NotReadableError(
                f"is not read: {LIBRARY} is not installed; {HOW_TO_GET}"
            ) from None
    return _loaded[0], _loaded[1]


def _destroy(ffi: Any) -> Any:
    """Return what frees an object of libsquashfs: its own first member, as sqfs_destroy() does."""

    def destroy(pointer: Any) -> None:
        instance = ffi.cast("sqfs_object_t *", pointer)
        instance.destroy(instance)

    return destroy
