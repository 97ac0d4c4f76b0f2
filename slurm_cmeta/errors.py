"""The exceptions of slurm-cmeta, one class for each exit code.

The core raises, the command line prints. Every message is one line that names the object and,
where there is one, the way out.
"""

EXIT_OK = 0
EXIT_NO_NODE = 1
EXIT_USAGE = 2
EXIT_IMAGE = 3
EXIT_CLUSTER = 4


class CmetaError(Exception):
    """Base of all errors that are reported to the user as one line."""

    exit_code = EXIT_USAGE


class UsageError(CmetaError):
    """The command line is wrong."""

    exit_code = EXIT_USAGE


class ImageError(CmetaError):
    """The image cannot be read, or is not an image."""

    exit_code = EXIT_IMAGE


class ClusterError(CmetaError):
    """The node classes cannot be read: slurm.conf, the controller or a snapshot."""

    exit_code = EXIT_CLUSTER


class ConfigError(CmetaError):
    """cmeta.yaml cannot be read or holds a mistake; the message names file and line."""

    exit_code = EXIT_CLUSTER
