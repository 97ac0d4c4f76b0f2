"""Why a registry did not give what it was asked for."""

from __future__ import annotations

from slurm_cmeta.errors import ImageError

DOWN = "down"
"""Nobody answers, or the server says that it is in trouble."""
SLOW = "slow"
"""The time is out."""
LIMITED = "limited"
"""Too many requests."""
DENIED = "denied"
"""Not for this user."""
MISSING = "missing"
"""No such repository, tag or digest."""
UNTRUSTED = "untrusted"
"""The server's certificate is not believed, or the connection would not be protected."""
BROKEN = "broken"
"""The answer is not what the specification says, or not what was asked for."""


class RegistryError(ImageError):
    """A registry that did not give what it was asked for. One line, which holds no secret."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind
        """One of the words above."""

    @property
    def passing(self) -> bool:
        """Tell whether it may be gone another time, with nothing changed."""
        return self.kind in (DOWN, SLOW, LIMITED)
