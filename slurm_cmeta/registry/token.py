"""How a registry is told who asks: the two schemes of the distribution specification.

    WWW-Authenticate: Basic realm="..."
    WWW-Authenticate: Bearer realm="URL",service="...",scope="repository:NAME:pull"

Source: distribution/docs/content/spec/auth/{token,oauth}.md.
"""

from __future__ import annotations

from slurm_cmeta.record import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from slurm_cmeta.registry.credentials import Credentials

MAX_CHALLENGE = 8192


class Challenge(NamedTuple):
    """What a registry wants to see."""

    scheme: str
    """`basic` or `bearer`, empty where it is none of them."""
    parameters: dict[str, str]


def read(header: str) -> Challenge:
    """Return the challenge in a WWW-Authenticate header."""
    scheme, _, rest = header[:MAX_CHALLENGE].strip().partition(" ")
    parameters: dict[str, str] = {}
    while rest:
        name, equals, rest = rest.lstrip(" ,").partition("=")
        if not equals:
            break
        if rest.startswith('"'):
            value, _, rest = rest[1:].partition('"')
        else:
            value, _, rest = rest.partition(",")
        parameters.setdefault(name.strip().lower(), value.strip())
    lower = scheme.lower()
    return Challenge(lower if lower in ("basic", "bearer") else "", parameters)


def basic(credentials: Credentials) -> str:
    """Return the Authorization header of a name with a password."""
    import base64

    pair = f"{credentials.name}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


def question(challenge: Challenge, repository: str, token: str = "") -> str:
    """Return the query for a token to pull from `repository`, URL-encoded.

    With an identity token it is the body of a POST, else the query of a GET. Only what is asked for
    is asked for: the scope is our own, whatever the challenge says.
    """
    from urllib.parse import urlencode

    asked = {"scope": f"repository:{repository}:pull"}
    if challenge.parameters.get("service"):
        asked["service"] = challenge.parameters["service"]
    if token:
        asked |= {"grant_type": "refresh_token", "client_id": "slurm-cmeta"}
        asked["refresh_token"] = token
    return urlencode(asked)
