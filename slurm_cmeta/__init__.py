"""slurm-cmeta: reads a container image and sends its Slurm job to nodes that can run it."""

__version__ = "0.1.0"
