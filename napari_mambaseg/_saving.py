"""Saving the labels that are corrected, with a table of the objects as they are now and the record of what ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtWidgets import QFileDialog, QWidget

from mambaseg import io
from mambaseg.instances import features
from napari_mambaseg._adapt import Source, to_image
from napari_mambaseg._corrections import Picture
from napari_mambaseg._writer import write_labels

__all__ = ["ask_where", "save_labels"]

_FORMATS = "Labels (*.ome.tif *.nii.gz *.nrrd *.mha *.tif)"
_MOST_MEASURED = 2**25  # voxels; of larger images the table says nothing of brightness


def ask_where(parent: QWidget, picture: Picture) -> Path | None:
    """A file that the user chose; None: rather not."""
    source = picture.order.source
    folder = source.path.parent if source.path is not None else Path.home()
    name = source.path.name if source.path is not None else source.name
    is_volume = len(source.reading.spatial) == 3 and source.reading.unit == "mm" and "T" not in source.reading.axes
    suffix = ".nii.gz" if is_volume else ".ome.tif"
    proposed = folder / f"{name.removesuffix(io.suffix_of(name))}_labels{suffix}"
    chosen, _ = QFileDialog.getSaveFileName(parent, "Save labels, table and record", str(proposed), _FORMATS)
    if not chosen:
        return None
    return Path(chosen) if io.suffix_of(chosen) else Path(f"{chosen}{suffix}")


def save_labels(path: Path, labels: NDArray[Any], meta: dict[str, Any], picture: Picture) -> list[str]:
    """Write labels, and beside them what is known of them; for a thread.

    Parameters
    ----------
    labels : as they are now
    meta : the layer's attributes
    picture : that the labels belong to

    Returns
    -------
    Paths of the files written

    Raises
    ------
    UserError : as `write_labels`
    """
    outcome = picture.shown.outcome if picture.shown is not None else None
    if picture.order.model.kind == "instances" and (outcome is None or not np.array_equal(labels, outcome.found)):
        meta = {**meta, "features": _measure(labels, picture.order.source)}  # what ran did not find all of these
    return write_labels(str(path), labels, meta)


def _measure(labels: NDArray[Any], source: Source) -> Any:
    """A row an object."""
    import pandas as pd

    image = to_image(source)
    is_small = not source.is_lazy and labels.size <= _MOST_MEASURED
    names, grid = image.known_channels, image.grid
    if not image.has_time:
        frame = next(iter(image.frames())) if is_small else None
        return features(labels.reshape(grid.shape), frame, grid, None, names).reset_index(names="index")
    frames = image.frames() if is_small else [None] * len(labels)
    return pd.concat([features(each, frame, grid, None, names).reset_index(names="index").assign(frame=number)
                      for number, (each, frame) in enumerate(zip(labels, frames, strict=True))], ignore_index=True)
