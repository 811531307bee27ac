"""Segmentation networks: one file a family, shared layers, and a registry of names."""

from mambaseg.nets.official import canonical_key, load_official
from mambaseg.nets.registry import NETWORKS, PRESETS, build, config_from_plan

__all__ = ["NETWORKS", "PRESETS", "build", "canonical_key", "config_from_plan", "load_official"]
