"""Train a model that comes along: ``python tools/train_bundled.py nuclei-2d|hippocampus-mri --data FOLDER``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile
import torch
from skimage.io import imread

from mambaseg.nets import build, config_from_plan
from mambaseg.plan import Plan
from mambaseg.prepare import prepare
from mambaseg.progress import Progress
from mambaseg.train.loop import Settings, fit
from mambaseg.train.sample import Case


def plan_2d() -> Plan:
    f = (24, 48, 96, 144, 176, 176)
    n = len(f)
    return Plan(ndim=2, patch_size=(256, 256), batch_size=6, features_per_stage=f, kernel_sizes=((3, 3),) * n,
                strides=((1, 1),) + ((2, 2),) * (n - 1), n_blocks_encoder=(1,) * n, n_blocks_decoder=(1,) * (n - 1),
                transpose=(0, 1), spacing=None, normalisation=("zscore",) * 3, use_mask_for_norm=(False,) * 3,
                crop_to_nonzero=False, batch_dice=True)


def plan_3d() -> Plan:
    f = (20, 40, 80, 160)
    n = len(f)
    return Plan(ndim=3, patch_size=(40, 56, 40), batch_size=4, features_per_stage=f, kernel_sizes=((3, 3, 3),) * n,
                strides=((1, 1, 1),) + ((2, 2, 2),) * (n - 1), n_blocks_encoder=(1,) * n,
                n_blocks_decoder=(1,) * (n - 1), transpose=(0, 1, 2), spacing=(1.0, 1.0, 1.0),
                normalisation=("zscore",), use_mask_for_norm=(False,), crop_to_nonzero=False, batch_dice=False)


def load(data: Path, plan: Plan, instances: bool) -> tuple[list[Case], list[Case]]:
    meta = {f["id"]: f for f in json.loads((data / "dataset.json").read_text())["files"]}
    split = json.loads((data / "split.json").read_text())
    count: dict[str, int] = {}
    for i in split["train"]:
        c = meta[i].get("category", "")
        count[c] = count.get(c, 0) + 1
    share = {"fluorescence": 0.5, "histology": 0.38, "brightfield": 0.12, "": 1.0}
    out = []
    for part in ("train", "val"):
        cases = []
        for i in split[part]:
            f = meta[i]
            if instances:
                image = imread(data / f["image"])
                labels = tifffile.imread(data / f["label"])
                frame = np.moveaxis(image, -1, 0) if image.ndim == 3 else np.repeat(image[None], 3, 0)
                spacing = None
            else:
                frame = sitk.GetArrayFromImage(sitk.ReadImage(str(data / f["image"])))[None]
                labels = sitk.GetArrayFromImage(sitk.ReadImage(str(data / f["label"]))).astype(np.uint8)
                spacing = (1.0, 1.0, 1.0)
            p = prepare(frame, spacing, plan, labels)
            c = f.get("category", "")
            case = Case(i, p.array, p.labels, share[c] / count[c])
            case.find_foreground(instances)
            cases.append(case)
        out.append(cases)
    return out[0], out[1]


def main() -> None:
    a = argparse.ArgumentParser()
    a.add_argument("name")
    a.add_argument("--data", type=Path, required=True)
    a.add_argument("--runs", type=Path, default=Path("runs"))
    a.add_argument("--minutes", type=float)
    a.add_argument("--iterations", type=int)
    a.add_argument("--resume", action="store_true")
    a.add_argument("--rate", type=float, default=1e-3)
    a = a.parse_args()
    torch.set_num_threads(1)
    two_d = a.name == "nuclei-2d"
    plan = plan_2d() if two_d else plan_3d()
    train, val = load(a.data, plan, two_d)
    torch.manual_seed(0)
    net = build("umamba-bot", **config_from_plan(plan, 3 if two_d else 1, 3, deep_supervision=True))
    print(sum(p.numel() for p in net.parameters()), len(train), len(val), flush=True)
    s = Settings(minutes=a.minutes, iterations=a.iterations, optimizer="adamw", rate=a.rate, instances=two_d, pictures=two_d, validate_every=100)
    last = [0]

    def show(p: Progress) -> None:
        if p.done - last[0] >= 20:
            last[0] = p.done
            print(p.done, p.total, p.message, round(p.seconds_left or 0), flush=True)

    fit(net, train, val, plan, s, a.runs / a.name, a.resume, show)


if __name__ == "__main__":
    main()
