"""Where the system's packages lie, for a Python that was started without looking there (-S)."""

from __future__ import annotations

import sys


def find() -> None:
    """Let PyYAML and cffi be found. Does nothing where Python has found them by itself.

    cmeta-decide pays for this only when it needs one of them: `site` reads every .pth file of the
    system, some of which import more than all of cmeta-decide does; these are not read here.
    """
    if not sys.flags.no_site:
        return
    import site

    sys.path += [place for place in site.getsitepackages() if place not in sys.path]
