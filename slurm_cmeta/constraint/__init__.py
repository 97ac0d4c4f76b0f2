"""Slurm's constraint language: read it, add to it, write the shortest expression."""
