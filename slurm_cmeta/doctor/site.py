"""The nodes' features, and the site's settings."""

from __future__ import annotations

from slurm_cmeta import check, config, nodefacts
from slurm_cmeta.cluster import source
from slurm_cmeta.doctor import ERROR, NOTE, OK, WARNING, Finding
from slurm_cmeta.errors import ClusterError, ConfigError
from slurm_cmeta.record import TYPE_CHECKING
from slurm_cmeta.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURES = "cmeta-features --apply on each node, or its line in slurm.conf (docs/features.md)"


def look(slurm_conf: str, config_path: str | None) -> Iterator[Finding]:
    """Yield what is to be said of cmeta.yaml, of the nodes' source and of the nodes."""
    try:
        settings = config.load(config_path, slurm_conf)
    except ConfigError as problem:
        yield Finding(
            ERROR, "site", f"{problem}: jobs are submitted as they are", "cmeta check-config"
        )
        return
    where = settings.path or "no cmeta.yaml"
    yield Finding(
        OK, "site", f"{clean(where)}: jobs that no node can run: {settings.values['on_mismatch']}"
    )
    try:
        cluster = source.configured(settings, slurm_conf)
    except ClusterError as problem:
        mend = (
            "cmeta nodes --live --snapshot FILE"
            if settings.nodes_source == "snapshot"
            else "cmeta nodes"
        )
        yield Finding(ERROR, "nodes", f"{problem}: jobs are submitted as they are", mend)
        return
    for warned in check.warnings(settings, slurm_conf, cluster):
        place = f"{settings.path}:{warned.line}: " if warned.line else ""
        name = f"{warned.name}: " if warned.name else ""
        yield Finding(
            WARNING, "site", clean(f"{place}{name}{warned.text}", 400), "cmeta check-config"
        )
    if cluster.stale:
        mend = "cmeta nodes --live --snapshot FILE, from a timer (etc/systemd)"
        yield Finding(WARNING, "nodes", cluster.stale, mend)
    total = sum(one.node_count for one in cluster.classes)
    silent = [
        one
        for one in cluster.classes
        if not nodefacts.read(one.features, settings.names, one.gres).families
    ]
    count = sum(one.node_count for one in silent)
    if not total:
        yield Finding(WARNING, "nodes", f"{clean(cluster.source)} has no nodes", "cmeta nodes")
    elif count:
        shown = clean(",".join(one.nodes for one in silent), 80)
        level = ERROR if count == total else WARNING
        why = f"{count} of {total} nodes say nothing of their architecture ({shown})"
        yield Finding(level, "nodes", f"{why}: no image is kept from them", FEATURES)
    else:
        yield Finding(OK, "nodes", f"all {total} nodes say what their architecture is")
    complete = sum(
        one.node_count for one in cluster.classes if nodefacts.COMPLETE_FEATURE in one.features
    )
    if total and not complete:
        why = "no node carries cmeta=1: what is not published refuses nobody"
        yield Finding(NOTE, "nodes", why)
