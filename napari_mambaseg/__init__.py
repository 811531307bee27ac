"""The place of mambaseg's napari plugin; it offers nothing to napari yet."""

from mambaseg import __version__

__all__ = ["__version__"]
