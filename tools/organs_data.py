"""Write the data set that the demonstration model `organs-ct` is trained on, out of the CT volumes of a larger one.

    python tools/organs_data.py ../shared/data/ct3d runs/organs-data

One volume to learn from and one held out, labels merged to the large organs. The label maps are
the output of TotalSegmentator, not of an expert: agreement with them is agreement with that program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np

ORGANS = {
    "liver": ("liver",),
    "spleen": ("spleen",),
    "kidneys": ("kidney_right", "kidney_left"),
    "urinary bladder": ("urinary_bladder",),
    "aorta": ("aorta",),
    "bones": ("vertebrae", "sacrum", "hip", "femur", "rib", "humerus"),
    "muscles": ("gluteus", "autochthon", "iliopsoas"),
}
LEARNED, HELD_OUT = "ct_torso_3mm", "ct_abdomen_dicom"
TERMS = ("licence", "licence_evidence", "source_repository", "citation", "label_caution")


def merged(labels: np.ndarray, names: dict[str, str]) -> np.ndarray:
    """Labels of `ORGANS`, 0 elsewhere."""
    found = np.zeros(labels.shape, np.uint8)
    for number, parts in enumerate(ORGANS.values(), 1):
        values = [int(value) for value, name in names.items() if name.startswith(parts)]
        found[np.isin(labels, values)] = number
    return found


def main() -> int:
    source, target = map(Path, sys.argv[1:])
    info = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True, exist_ok=True)
    for name in (LEARNED, HELD_OUT):
        image, labels = (nibabel.load(source / part / f"{name}.nii.gz") for part in ("images", "labels"))
        nibabel.save(image, target / "imagesTr" / f"{name}_0000.nii.gz")
        organs = merged(np.asarray(labels.dataobj), info["labels"])
        nibabel.save(nibabel.Nifti1Image(organs, image.affine), target / "labelsTr" / f"{name}.nii.gz")
    described = {"name": "organs of ct3d", "channel_names": {"0": "CT"}, "numTraining": 2, "file_ending": ".nii.gz",
                 "labels": {"background": 0} | {name: number for number, name in enumerate(ORGANS, 1)},
                 **{key: info[key] for key in TERMS}}
    (target / "dataset.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    (target / "splits_final.json").write_text(json.dumps([{"train": [LEARNED], "val": [HELD_OUT]}]),
                                              encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
