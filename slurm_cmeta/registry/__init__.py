"""What a registry, or an OCI layout on disk, holds under a name. Knows nothing of Slurm or nodes.

Only documents (indexes, manifests, configurations, small artifacts) are read here, each verified
by its digest, with a bound on bytes and on time. Source: opencontainers/distribution-spec spec.md.
"""
