"""The package's compiled modules in one file, for a process that lives for some milliseconds.

A submission imports some seventy modules. To look for each, open and read it takes as long as all
that is done with them; reading one file and finding them there does not. `make install` writes the
bundle beside the package (`python3 -m slurm_cmeta.bundle DIRECTORY`), and cmeta-decide loads it:

    marshal.dumps((MAGIC, {module: (is a package, path of its source, marshalled code)}))

It is used only by the Python that wrote it (importlib.util.MAGIC_NUMBER), and where it is missing
or of another Python, modules are imported as ever.
"""

from __future__ import annotations

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType

NAME = "slurm_cmeta.bundle"
"""The file's name, in the directory that holds the package."""

_PACKAGE = "slurm_cmeta"
_COMMAND = ("__init__.py", "decide.py")
_LEFT_OUT = ("node", "report", "machinecode", "pull", "registry")
"""Packages that no submission of a file imports: reading them would cost more than it saves."""


class Finder:
    """Finds modules in a bundle; on sys.meta_path, and the loader of what it finds."""

    def __init__(self, modules: dict[str, tuple[bool, str, bytes]]) -> None:
        self._modules = modules
        self._spec = type(sys.__spec__)  # ModuleSpec, without importing importlib.machinery

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of a module that is in the bundle."""
        found = self._modules.get(name)
        if found is None:
            return None
        spec = self._spec(name, self, origin=found[1], is_package=found[0])  # type: ignore[arg-type]
        spec.has_location = True
        if found[0]:
            spec.submodule_search_locations = [found[1].rpartition("/")[0]]
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code."""
        code: CodeType = marshal.loads(self._modules[module.__name__][2])  # noqa: S302 - our own
        exec(code, module.__dict__)  # noqa: S102 - as every loader does


def use(directory: str) -> None:
    """Let modules be found in the bundle of `directory`, if it is one of this Python's."""
    from _frozen_importlib_external import MAGIC_NUMBER

    try:
        with open(f"{directory}/{NAME}", "rb") as file:
            found, modules = marshal.loads(file.read())  # noqa: S302
    except (OSError, ValueError, EOFError, TypeError):
        return
    if found == MAGIC_NUMBER:
        sys.meta_path.insert(0, Finder(modules))


def write(directory: str, installed: str = "") -> None:
    """Write the bundle of the package in `directory`, which will be at `installed`."""
    import os
    from importlib.util import MAGIC_NUMBER

    modules: dict[str, tuple[bool, str, bytes]] = {}
    for place, folders, names in os.walk(f"{directory}/{_PACKAGE}"):
        folders[:] = sorted(set(folders).difference(_LEFT_OUT))
        for name in sorted(names):
            if not name.endswith(".py") or (place.endswith("/cli") and name not in _COMMAND):
                continue
            path = f"{place}/{name}"
            shown = path.replace(directory, installed or directory, 1)
            module = path[len(directory) + 1 : -3].replace("/", ".")
            is_package = module.endswith(".__init__")
            with open(path, "rb") as file:
                # Without docstrings and assertions, which nobody reads there.
                code = compile(file.read(), shown, "exec", dont_inherit=True, optimize=2)
            modules[module.removesuffix(".__init__")] = is_package, shown, marshal.dumps(code)
    with open(f"{directory}/{NAME}.new", "wb") as file:
        file.write(marshal.dumps((MAGIC_NUMBER, modules)))
    os.replace(f"{directory}/{NAME}.new", f"{directory}/{NAME}")


if __name__ == "__main__":
    write(*sys.argv[1:3])
