"""What a segmentation leaves on the disk: labels, features, record, overlay; each whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mambaseg._errors import ImageError, UserError

if TYPE_CHECKING:
    from mambaseg.image import Image
    from mambaseg.segmentation import Segmentation

__all__ = ["check_outputs", "describe", "write_outputs", "write_text"]


def check_outputs(inputs: list[Path], folder: Path | None) -> dict[Path, Path]:
    """Labels' path of each input, before anything is computed.

    Parameters
    ----------
    inputs : files and DICOM folders
    folder : where all outputs go; None: beside each input

    Raises
    ------
    UserError : two inputs would write the same file, or an output would land outside the folder
    """
    from mambaseg.io import labels_path

    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, but -o takes a folder; choose another name.")
    outputs: dict[Path, Path] = {}
    for path in inputs:
        chosen = folder if folder is not None else (path.resolve() if path.is_dir() else path.absolute()).parent
        target = labels_path(path, chosen)
        if target.resolve().parent != chosen.resolve():
            raise ImageError(f"The labels of {path} would land in {target.resolve().parent}, outside {chosen}; rename "
                             "the image or choose another folder with -o.")
        for other, taken in outputs.items():
            if taken == target and other != path:
                raise UserError(f"{other} and {path} would both be written to {target}; segment them into different "
                                "folders with -o.")
        outputs[path] = target
    return outputs


def write_outputs(result: Segmentation, target: Path, *, with_overlay: bool) -> dict[str, Path]:
    """Write what `result` holds beside `target`, the path of the labels; returns the paths by what they hold."""
    from mambaseg.io import write_labels

    stem = target.name.rpartition("_labels")[0]
    paths = {"labels": target}
    write_labels(result.labels, result.image, target)
    if result.features is not None:
        paths["features"] = target.with_name(f"{stem}_features.csv")
        write_text(paths["features"], result.features.to_csv(index=False, lineterminator="\n"))
    if with_overlay:
        paths["overlay"] = target.with_name(f"{stem}_overlay.png")
        _write_overlay(paths["overlay"], result)
    paths["record"] = target.with_name(f"{stem}_record.json")
    write_text(paths["record"], json.dumps(result.record, indent=2, ensure_ascii=False) + "\n")
    return paths


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    _write(path, text.encode("utf-8"))


def describe(image: Image) -> str:
    """The picture in a few words: "512 x 512 pixels, 3 channels"."""
    sizes = " x ".join(str(extent) for extent in reversed(image.grid.shape))
    unit = "pixels" if image.ndim == 2 else "voxels"
    frames = f", {image.n_frames} time points" if image.has_time else ""
    channels = ", colour" if image.is_rgb else f", {image.n_channels} channels" if image.n_channels > 1 else ""
    return f"{sizes} {unit}{channels}{frames}"


def _write_overlay(path: Path, result: Segmentation) -> None:
    """Write the picture with outlines as PNG."""
    import imagecodecs

    from mambaseg.overlay import overlay

    _write(path, bytes(imagecodecs.png_encode(overlay(result.image, result.labels, result.record["model"]["kind"]))))


def _write(path: Path, content: bytes) -> None:
    from mambaseg.io import atomic_path

    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)
