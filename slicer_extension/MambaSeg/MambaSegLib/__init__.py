"""What the module MambaSeg is made of. Names are loaded on first use: most need the package `mambaseg` installed.

from MambaSegLib import MambaSegLogic
segmentationNode = MambaSegLogic().segment(volumeNode, model="hippocampus-mri")
"""

from importlib import import_module
from typing import Any

_HOMES = {"MambaSegLogic": "Logic", "MambaSegParameterNode": "Parameter", "Installer": "Install", "Panel": "Widget"}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"MambaSegLib.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
