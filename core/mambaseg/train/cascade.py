"""What is learned in two stages: which configurations there are, and the labels that the first stage hands on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mambaseg._errors import DatasetError, UserError
from mambaseg.io.atomic import atomic_path
from mambaseg.models import Model
from mambaseg.nets.registry import PLANAR
from mambaseg.progress import Clock, Progress, ProgressCallback, always
from mambaseg.segmentation import segment
from mambaseg.train.dataset import CaseFiles, Dataset
from mambaseg.train.prepared import check_room, identity, plain_name
from mambaseg.train.recipes import Recipe

__all__ = ["CASCADE", "CONFIGURATIONS", "LOWRES", "check_configuration", "find_labels"]

LOWRES, CASCADE = "3d_lowres", "3d_cascade_fullres"
CONFIGURATIONS = ("2d", "3d_fullres", LOWRES, CASCADE)  # nnU-Net's names


def check_configuration(name: str, chosen: Recipe, data: Dataset) -> None:
    """Refuse a configuration that there is none of, or not for these images or this network.

    Raises
    ------
    UserError : says what there is
    """
    if name == "2d":
        return
    if data.ndim < 3:
        raise DatasetError(f"There is no configuration {name} of flat pictures; train with --configuration 2d.")
    if chosen.network in PLANAR or chosen.fit != "windows":
        seen = "single slices" if chosen.network in PLANAR else "whole images, resized"
        raise UserError(f"{chosen.network} is to see {seen}, so there is only the configuration 2d; for {name} choose "
                        "a network of volumes, such as --network umamba-bot.")
    if name == CASCADE and data.instances:
        raise UserError("A cascade hands classes on, but these labels number objects; train with --configuration "
                        "3d_fullres, or with --classes.")
    if name == CASCADE and data.unit == "px":
        raise DatasetError("The voxel size of the images is not known, so a cascade cannot tell its two resolutions; "
                           "give images that tell it, or train with --configuration 3d_fullres or 2d.")


def find_labels(data: Dataset, files: Sequence[CaseFiles], model: Model, folder: Path, device: str = "auto",
                progress: ProgressCallback | None = None) -> dict[str, Path]:
    """Labels that the first stage of a cascade finds, kept on the disk: a case that is there already is not run again.

    nnU-Net gives the second stage, of every case, what the fold found that had not learned from it. Here one network
    was trained, and it is asked of the cases that it learned from, too. Of these its labels are better than of new
    images; that the second stage sees them spoiled (`mambaseg.train.augment.spoil`) has to make up for it. The held-out
    cases are judged by honest ones.

    Parameters
    ----------
    data, files : the data set and its cases that are wanted
    model : the first stage
    folder : gets a NumPy file a case, labels (*spatial) on the grid of its image; those of other models or of changed
        images are removed
    progress : called after each window; what it raises stops the work, and finished cases stay

    Raises
    ------
    UserError : an image cannot be segmented, or the disk has too little room (told before work begins)
    """
    of_model = json.dumps([model.checksum, *(member.checksum for member in model.members), model.keep_largest])
    paths = {}
    for case in files:
        seen = [(str(path.resolve()), *identity(path)) for path in case.images]
        key = hashlib.sha256(json.dumps([of_model, seen]).encode()).hexdigest()[:16]
        paths[case.name] = folder / f"{plain_name(case.name)}-{key}.npy"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.npy"):
        if path not in paths.values():
            path.unlink()
    missing = [case for case in files if not paths[case.name].is_file()]
    check_room(sum(math.prod(data.looks[case.name].shape) for case in missing if case.name in data.looks), folder)
    working = dataclasses.replace(model)  # its networks go when this ends, and with them the memory of a GPU
    clock = Clock(len(missing))
    for index, case in enumerate(missing):
        now = Progress("Finding labels", index, len(missing), f"{case.name}, at low resolution",
                       seconds_left=clock.seconds_left(index))
        found = segment(case.read_image(), working, device=device, progress=always(progress, now)).labels
        with atomic_path(paths[case.name], found.nbytes) as temporary:
            np.save(temporary, found, allow_pickle=False)
    return paths
