"""Figures of this program on this machine: `scan`, `predict` and `networks`, each with `run(quick)`."""
