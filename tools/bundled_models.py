"""What differs between the models that come along: sizes, settings, decoder and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from baseline import baseline_f1
from numpy.typing import NDArray

from mambaseg.instances import Decoder
from mambaseg.metrics import average_precision, f1
from mambaseg.metrics.interval import bootstrap
from mambaseg.models import Model
from mambaseg.nets import config_from_plan
from mambaseg.plan import Plan
from mambaseg.predict.blend import logits_to_probabilities
from mambaseg.predict.run import predict_logits
from mambaseg.prepare import prepare
from mambaseg.segmentation import segment
from mambaseg.train.dataset import CaseFiles, Dataset, frame_of
from mambaseg.train.loop import Settings
from mambaseg.train.sample import Case
from mambaseg.train.score import judge

__all__ = ["BUNDLED_MODELS", "BundledModel"]

# How often a kind of picture is drawn: tissue is hard and rare (91 of 566), fluorescence easy and common
SHARES = {"fluorescence": 0.50, "histology": 0.38, "brightfield": 0.12}
N_TUNING_PICTURES = 8  # training pictures (of each kind) that the decoder's settings are chosen on
CELLS_UM_PX = 0.8707951277094507  # dataset.json of cells2d


@dataclasses.dataclass(frozen=True)
class BundledModel:
    """What differs between the bundled models.

    Parameters
    ----------
    plan, settings : of the training; `settings` without when to stop
    words : fields of `Model` that people read
    score : scores of the saved model on the validation cases
    tune : chooses the decoder on training cases, for objects
    network : name in `mambaseg.nets.NETWORKS`
    config : constructor arguments that go before those of the plan
    weigh : sets how often each case is drawn
    is_binary : one class against background, with one output
    preset : of `mambaseg.train.recipes`, whose loss it takes; None: nnU-Net's
    """

    plan: Plan
    settings: Settings
    words: dict[str, Any]
    score: Callable[[Model, Dataset], dict[str, Any]] = lambda model, data: scores_of(model, data)
    tune: Callable[[Model, Dataset], Decoder] | None = None
    network: str = "umamba-bot"
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    weigh: Callable[[list[Case], dict[str, Any]], None] = lambda cases, info: None
    is_binary: bool = False
    preset: str | None = None

    def finished(self, model: Model, data: Dataset) -> Model:
        """The saved model with its words, decoder and scores."""
        model = dataclasses.replace(model, **self.words)
        if self.tune is not None:
            model = dataclasses.replace(model, decoder=self.tune(model, data).to_json())
        return dataclasses.replace(model, scores=self.score(model, data))

    def network_config(self, data: Dataset, deep_supervision: bool = False) -> dict[str, Any]:
        """Constructor arguments of the network for a data set."""
        return config_from_plan(self.plan, data.n_channels, data.n_outputs, deep_supervision,
                                self.network) | self.config


def plan_of(ndim: int, features: tuple[int, ...], **sizes: Any) -> Plan:
    """A plan with one residual block a stage and kernels of 3, halving at each stage."""
    n = len(features)
    return Plan(ndim=ndim, features_per_stage=features, kernel_sizes=((3,) * ndim,) * n,
                strides=((1,) * ndim,) + ((2,) * ndim,) * (n - 1), n_blocks_encoder=(1,) * n,
                n_blocks_decoder=(1,) * (n - 1), transpose=tuple(range(ndim)), crop_to_nonzero=False, **sizes)


# --- nuclei -----------------------------------------------------------------------------------------------------------

def weigh_kinds(cases: list[Case], info: dict[str, Any]) -> None:
    """Draw each kind of picture as often as `SHARES` says, however many there are of it."""
    kinds = {file["id"]: file["category"] for file in info["files"]}
    counts = {kind: sum(kinds[case.name] == kind for case in cases) for kind in SHARES}
    for case in cases:
        case.weight = SHARES[kinds[case.name]] / counts[kinds[case.name]]


def tune_nuclei(model: Model, data: Dataset) -> Decoder:
    """The best decoder on some training pictures of each kind."""
    kinds = {file["id"]: file["category"] for file in data.info["files"]}
    chosen = [case for kind in SHARES for case in
              [c for c in data.train if kinds[c.name] == kind][::7][:N_TUNING_PICTURES]]
    grid = [Decoder(foreground=f, seed=s, split=p, min_size=m)
            for f in (0.4, 0.45, 0.5) for s in (0.4, 0.5, 0.6) for p in (0.55, 0.65, 0.75) for m in (8.0, 16.0, 24.0)]
    return best_decoder(model, data, chosen, grid)


def score_nuclei(model: Model, data: Dataset) -> dict[str, Any]:
    """F1, with its interval, and mean AP on the validation pictures, over all and by kind; and a plain method's F1."""
    kinds = {file["id"]: file["category"] for file in data.info["files"]}
    rows: dict[str, list[tuple[float, float]]] = {"all": []}
    for case in data.validation:
        image, truth = case.read()
        labels = segment(image, model, device="cpu").labels
        row = f1(truth, labels), float(np.mean(list(average_precision(truth, labels).values())))
        rows["all"].append(row)
        rows.setdefault(kinds[case.name], []).append(row)
    interval = bootstrap(np.array(rows["all"])[:, :1]) or []
    return {"n_images": {kind: len(values) for kind, values in rows.items()},
            "f1@0.5": {kind: round(float(np.mean(values, 0)[0]), 3) for kind, values in rows.items()},
            "mean_ap": {kind: round(float(np.mean(values, 0)[1]), 3) for kind, values in rows.items()},
            "interval": {"f1@0.5": [round(end, 3) for end in interval]},
            "otsu_watershed_f1@0.5": {kind: round(value, 3) for kind, value in baseline_f1(
                data.validation[0].labels.parents[1]).items()},
            "conventions": {
                "f1@0.5": "2 TP / (2 TP + FP + FN) of objects, Hungarian matching, IoU 0.5, mean over pictures",
                "mean_ap": "TP / (TP + FP + FN), mean over IoU 0.5:0.05:0.95, mean over pictures"}}


# --- cells ------------------------------------------------------------------------------------------------------------

def tune_cells(model: Model, data: Dataset) -> Decoder:
    """The best decoder, of the kind that the target asks for, on some training pictures."""
    start = Decoder.from_json(model.decoder or {})
    splits = (0.65, 0.75, 0.85, 0.92, 0.96) if start.method == "distance" else (0.45, 0.55, 0.65, 0.75, 0.85)
    grid = [dataclasses.replace(start, foreground=f, seed=s, split=p, min_size=m) for f in (0.4, 0.5)
            for s in (0.4, 0.5, 0.6) for p in splits for m in (150.0, 300.0)]
    return best_decoder(model, data, data.train[::5][:N_TUNING_PICTURES], grid)


def best_decoder(model: Model, data: Dataset, cases: Sequence[CaseFiles], grid: list[Decoder]) -> Decoder:
    """The decoder with the highest mean F1 on some training pictures; validation is not looked at."""
    pairs = [probabilities_of(model, case, data.n_channels) for case in cases]

    def score(decoder: Decoder) -> float:
        return float(np.mean([f1(truth, decoder.decode(p, spacing)) for p, truth, spacing in pairs]))

    best, decoder = max(((score(decoder), decoder) for decoder in grid), key=lambda pair: pair[0])
    default = Decoder(grid[0].method)
    print(f"decoder {decoder}: F1 {best:.3f} on {len(pairs)} training pictures; defaults {score(default):.3f}, "
          f"authors' {score(Decoder('components')):.3f}", flush=True)
    return decoder


def probabilities_of(model: Model, case: CaseFiles,
                     n_channels: int) -> tuple[NDArray[np.float32], NDArray[Any], tuple[float, ...] | None]:
    """Class probabilities and true labels of a picture on the plan's grid, and the spacing of that."""
    image, labels = case.read()
    spacing = model.plan.spacing_of(image.grid.spacing, image.grid.unit)
    prepared = prepare(frame_of(image, n_channels), spacing, model.plan, labels)
    logits = predict_logits([model.built], prepared.array, model.plan, n_classes=3)
    truth = labels if prepared.labels is None else prepared.labels
    return logits_to_probabilities(logits, "instances"), truth, prepared.plan_spacing


# --- the models -------------------------------------------------------------------------------------------------------

def scores_of(model: Model, data: Dataset) -> dict[str, Any]:
    """Scores on the validation cases, with the bootstrap interval of the one that is quoted."""
    found = judge(model, data, "cpu")
    if data.instances:
        interval = {"f1@0.5": found.details["interval"]["f1@0.5"]}
    else:
        interval = {"foreground_mean": found.details["foreground_interval"]["dice"]}
    return found.scores | {"interval": {key: [round(end, 4) for end in ends] for key, ends in interval.items()}}


def score_organs(model: Model, data: Dataset) -> dict[str, Any]:
    """How far the model agrees with the other program that drew its labels; one volume, so no score of quality."""
    found = judge(model, data, "cpu").scores
    return {"n_images": found["n_images"], "agreement": found["dice"],
            "conventions": {"agreement": "Dice with the labels of TotalSegmentator on one volume; says nothing about "
                                         "how right either is"}}


ABDOMINAL_WINDOW = {"mean": 60.0, "std": 90.0, "percentile_00_5": -150.0, "percentile_99_5": 450.0}  # HU

BUNDLED_MODELS = {
    "nuclei-2d": BundledModel(
        plan_of(2, (24, 48, 96, 144, 176, 176), patch_size=(256, 256), batch_size=6, batch_dice=True,
                normalisation=("zscore",) * 3, use_mask_for_norm=(False,) * 3),
        Settings(optimizer="adamw", rate=1e-3, instances=True, pictures=True),
        {"title": "Nuclei (2-D)", "licence": "Apache-2.0", "classes": ("background", "nucleus"),
         "description": "Finds nuclei in fluorescence, tissue (H&E) and brightfield pictures, in colour or grey."},
        score_nuclei, tune_nuclei, weigh=weigh_kinds),
    "cells-phase": BundledModel(
        plan_of(2, (16, 32, 64, 128, 160), patch_size=(192, 192), batch_size=6, batch_dice=True,
                spacing=(3 * CELLS_UM_PX,) * 2, usual_spacing=(CELLS_UM_PX,) * 2, unit="um",
                normalisation=("zscore",), use_mask_for_norm=(False,)),
        Settings(optimizer="adamw", rate=1e-3, instances=True, pictures=True, average=0.99),
        {"title": "Cells (phase contrast)", "licence": "Apache-2.0", "classes": ("background", "cell"),
         "channels": ("phase contrast",),
         "description": "Finds whole adherent cells that touch, in grey phase-contrast pictures."}, tune=tune_cells),
    "polyp-endoscopy": BundledModel(
        plan_of(2, (48, 96, 192, 384), patch_size=(256, 256), batch_size=8, fit="bilinear",
                normalisation=("zscore",) * 3, use_mask_for_norm=(False,) * 3),
        Settings(optimizer="adamw", rate=1e-3, pictures=True, average=0.99, foreground_share=0),
        {"title": "Polyps (endoscopy)", "licence": "CC-BY-4.0",
         "description": "Finds polyps in colour pictures of colonoscopy; not for diagnosis."},
        network="vmunetv2", config={"mid_channel": 24, "depths": [2, 2, 4, 0], "d_state": 8, "drop_path": 0.1},
        is_binary=True, preset="polyp"),
    "polyp-umamba": BundledModel(  # answers beside the VM-UNetV2 of polyp-endoscopy
        plan_of(2, (24, 48, 96, 128, 144), patch_size=(128, 128), batch_size=8, batch_dice=True, fit="bilinear",
                normalisation=("zscore",) * 3, use_mask_for_norm=(False,) * 3),
        Settings(optimizer="adamw", rate=1e-3, pictures=True, average=0.995, foreground_share=0),
        {"title": "Polyps (endoscopy), U-Mamba", "licence": "CC-BY-4.0",
         "description": "Finds polyps in colour pictures of colonoscopy; not for diagnosis."}, is_binary=True),
    "hippocampus-mri": BundledModel(
        plan_of(3, (20, 40, 80, 160), patch_size=(40, 56, 40), batch_size=4, spacing=(1.0, 1.0, 1.0),
                orientation="RAS"),
        # mirrored left and right only: the other axes tell front from back
        Settings(optimizer="adamw", rate=1e-3, mirror_axes=(2,), average=0.995),
        {"title": "Hippocampus (MRI)", "licence": "CC-BY-SA-4.0",
         "description": "Anterior and posterior hippocampus in T1 MRI that is cropped around one hippocampus."}),
    "organs-ct": BundledModel(
        plan_of(3, (16, 32, 64, 128), patch_size=(32, 96, 96), batch_size=2, spacing=(3.0, 3.0, 3.0),
                normalisation=("ct",), use_mask_for_norm=(False,), intensities=(ABDOMINAL_WINDOW,),
                orientation="RAS"),
        # never mirrored: left and right are what tells liver and spleen apart
        Settings(optimizer="adamw", rate=1e-3, mirror_axes=(), average=0.99),
        {"title": "Organs (CT, demonstration)", "licence": "Apache-2.0",
         "description": "Shows how a CT is segmented: large organs of the belly, learned from one volume whose labels "
                        "another program drew. Not for findings of any kind."}, score_organs),
}
