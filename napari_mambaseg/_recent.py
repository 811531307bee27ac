"""Which models were used lately; kept in the user's settings."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QSettings, QStandardPaths

from mambaseg.models import bundled

__all__ = ["models_folder", "recent_models", "remember_model"]

_KEY = "recent_models"
_N_KEPT = 6


def recent_models() -> list[str]:
    """Names of bundled models and folders of others that are still there, the last used first."""
    kept = _settings().value(_KEY) or []
    models = [kept] if isinstance(kept, str) else [str(model) for model in kept]
    return [model for model in models if model in bundled() or (Path(model) / "model.json").is_file()]


def remember_model(name_or_folder: str) -> None:
    """Put a model to the front of the list."""
    models = [name_or_folder, *(model for model in recent_models() if model != name_or_folder)]
    _settings().setValue(_KEY, models[:_N_KEPT])


def models_folder() -> Path:
    """Where models are put that were made from nnU-Net folders."""
    place = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.GenericDataLocation)
    return Path(place) / "mambaseg" / "models"


def _settings() -> QSettings:
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "mambaseg", "napari")
