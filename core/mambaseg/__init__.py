"""Mamba networks that segment microscopy pictures and medical volumes, on a plain CPU or a GPU.

The public names below are loaded when they are first used, so `import mambaseg` stays quick and brings neither torch
nor numba.
"""

import sys
from importlib import import_module
from types import ModuleType

__all__ = [
    "Cancelled",
    "Estimate",
    "Grid",
    "Image",
    "Progress",
    "Segmentation",
    "UserError",
    "estimate",
    "evaluate",
    "finetune",
    "load_model",
    "nets",
    "ops",
    "read",
    "segment",
    "train",
    "write",
]

__version__ = "0.1.0"

_HOMES = {
    "Cancelled": "_errors",
    "Estimate": "segmentation",
    "Grid": "image",
    "Image": "image",
    "Progress": "progress",
    "Segmentation": "segmentation",
    "UserError": "_errors",
    "estimate": "segmentation",
    "evaluate": "metrics",
    "finetune": "learn.finetune",
    "load_model": "models",
    "read": "io",
    "segment": "segmentation",
    "train": "train",
    "write": "io",
}
_PUBLIC_MODULES = ("nets", "ops")


class _Package(ModuleType):
    """Keeps a public name what it is when a sub-package of the same name is imported.

    Python binds an imported `mambaseg.train` to the name `train` of this package, which would hide the function.
    """

    def __setattr__(self, name: str, value: object) -> None:
        """Bind `name`, unless a module would take the place of a public function or class."""
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    if name in _PUBLIC_MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
