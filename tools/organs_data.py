"""Write the data set that the demonstration model `organs-ct` is trained on, out of the CT volumes of a larger one.

    python tools/organs_data.py ../shared/data/ct3d runs/organs-data

One volume to learn from and one held out, labels merged to the large organs. The label maps are
the output of TotalSegmentator, not of an expert: agreement with them is agreement with that program. The volume was
taken without contrast agent and the one held out with it, so the first is also given as it might look with the agent in
the arteries and in the veins: organs are made brighter by what is usual then.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

ORGANS = {
    "liver": ("liver",),
    "spleen": ("spleen",),
    "kidneys": ("kidney_right", "kidney_left"),
    "urinary bladder": ("urinary_bladder",),
    "aorta": ("aorta",),
    "bones": ("vertebrae", "sacrum", "hip", "femur", "rib", "humerus"),
    "muscles": ("gluteus", "autochthon", "iliopsoas"),
}
PHASES = {  # HU that the contrast agent adds
    "": {},
    "_arterial": {"aorta": 200, "kidney": 90, "spleen": 50, "liver": 15},
    "_venous": {"aorta": 90, "inferior_vena_cava": 90, "portal_vein": 110, "kidney": 110, "spleen": 65, "liver": 60,
                "pancreas": 40, "gluteus": 10, "autochthon": 10, "iliopsoas": 10},
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


def with_agent(values: np.ndarray, labels: np.ndarray, names: dict[str, str], added: dict[str, int]) -> np.ndarray:
    """HU of a volume with contrast agent, which does not end sharply at an organ's edge."""
    more = np.zeros(values.shape, np.float32)
    for part, hu in added.items():
        more[np.isin(labels, [int(value) for value, name in names.items() if name.startswith(part)])] = hu
    return (values + gaussian_filter(more, 0.7)).astype(np.int16)


def main() -> int:
    source, target = map(Path, sys.argv[1:])
    info = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    for part in ("imagesTr", "labelsTr"):
        (target / part).mkdir(parents=True, exist_ok=True)
    for name in (LEARNED, HELD_OUT):
        image, labels = (nibabel.load(source / part / f"{name}.nii.gz") for part in ("images", "labels"))
        values, parts = np.asarray(image.dataobj), np.asarray(labels.dataobj)
        organs = nibabel.Nifti1Image(merged(parts, info["labels"]), image.affine)
        for phase, added in PHASES.items() if name == LEARNED else [("", {})]:
            brighter = nibabel.Nifti1Image(with_agent(values, parts, info["labels"], added), image.affine)
            nibabel.save(brighter, target / "imagesTr" / f"{name}{phase}_0000.nii.gz")
            nibabel.save(organs, target / "labelsTr" / f"{name}{phase}.nii.gz")
    learned = [f"{LEARNED}{phase}" for phase in PHASES]
    described = {"name": "organs of ct3d", "channel_names": {"0": "CT"}, "numTraining": 4, "file_ending": ".nii.gz",
                 "labels": {"background": 0} | {name: number for number, name in enumerate(ORGANS, 1)},
                 **{key: info[key] for key in TERMS}}
    (target / "dataset.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    (target / "splits_final.json").write_text(json.dumps([{"train": learned, "val": [HELD_OUT]}]),
                                              encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
