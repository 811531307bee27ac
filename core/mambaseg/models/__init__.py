"""Models: the package format, the models that come along, and finding one by name or path.

`mambaseg.models.package` (saving, loading, checking) brings torch; what is imported here does not.
"""

from mambaseg.models.catalogue import BUNDLED_FOLDER, bundled, listed, load_model, resolve
from mambaseg.models.folder import copy_package
from mambaseg.models.model import KINDS, Model, read_model

__all__ = ["BUNDLED_FOLDER", "KINDS", "Model", "bundled", "copy_package", "listed", "load_model", "read_model",
           "resolve"]
