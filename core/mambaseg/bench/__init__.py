"""Figures of this program on this machine: `scan` and `predict`, each with `run(quick)`."""
