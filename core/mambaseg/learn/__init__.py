"""Learning from corrections: the journal that keeps them, what they say, and the models that learned from them.

The names below are loaded when they are first used: those that keep strokes bring no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambaseg.learn.corrections import Corrections as Corrections
    from mambaseg.learn.corrections import apply_locks as apply_locks
    from mambaseg.learn.examples import Example as Example
    from mambaseg.learn.finetune import Tuned as Tuned
    from mambaseg.learn.head import InstantSession as InstantSession
    from mambaseg.learn.journal import ImageIdentity as ImageIdentity
    from mambaseg.learn.journal import Journal as Journal
    from mambaseg.learn.journal import Stroke as Stroke
    from mambaseg.learn.journal import identify as identify
    from mambaseg.learn.lineage import Lineage as Lineage
    from mambaseg.learn.project import Project as Project
    from mambaseg.learn.project import ProjectImage as ProjectImage
    from mambaseg.learn.project import default_folder as default_folder
    from mambaseg.learn.project import project_of as project_of
    from mambaseg.learn.project import recent_projects as recent_projects
    from mambaseg.learn.uncertainty import Doubt as Doubt
    from mambaseg.learn.uncertainty import least_sure as least_sure

_HOMES = {
    "Corrections": "corrections",
    "Doubt": "uncertainty",
    "Example": "examples",
    "ImageIdentity": "journal",
    "InstantSession": "head",
    "Journal": "journal",
    "Lineage": "lineage",
    "Project": "project",
    "ProjectImage": "project",
    "Stroke": "journal",
    "Tuned": "finetune",
    "apply_locks": "corrections",
    "default_folder": "project",
    "identify": "journal",
    "least_sure": "uncertainty",
    "project_of": "project",
    "recent_projects": "project",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(f"mambaseg.learn.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
