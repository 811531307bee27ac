"""Train a model that comes along and save it as a package with its scores.

    python tools/train_bundled.py nuclei-2d --data ../shared/data/nuclei2d --minutes 100
    python tools/train_bundled.py hippocampus-mri --data ../shared/data/hippocampus3d --iterations 2400

An interrupted run goes on with --resume. What was tried and what it gave stands in docs/bundled-models.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baseline import baseline_f1

from mambaseg.instances import Decoder
from mambaseg.metrics import average_precision, f1
from mambaseg.models import Model, load_model
from mambaseg.models.package import save_package
from mambaseg.nets import build, config_from_plan
from mambaseg.plan import Plan
from mambaseg.predict.run import predict
from mambaseg.progress import Progress
from mambaseg.segmentation import segment
from mambaseg.train.checkpoint import Checkpoint
from mambaseg.train.dataset import CaseFiles, Dataset, frame_of, open_dataset
from mambaseg.train.loop import Settings, fit
from mambaseg.train.prepared import prepare_cases
from mambaseg.train.sample import Case
from mambaseg.train.score import score_model

BUNDLED = Path(__file__).resolve().parents[1] / "core" / "mambaseg" / "models" / "bundled"
NETWORK = "umamba-bot"
# How often a kind of picture is drawn: tissue is hard and rare (91 of 566), fluorescence easy and common
SHARES = {"fluorescence": 0.50, "histology": 0.38, "brightfield": 0.12}
N_TUNING_PICTURES = 8  # training pictures of each kind that the decoder's settings are chosen on


def plan_of(ndim: int, features: tuple[int, ...], **sizes: Any) -> Plan:
    """A plan with one residual block a stage and kernels of 3, halving at each stage."""
    n = len(features)
    return Plan(ndim=ndim, features_per_stage=features, kernel_sizes=((3,) * ndim,) * n,
                strides=((1,) * ndim,) + ((2,) * ndim,) * (n - 1), n_blocks_encoder=(1,) * n,
                n_blocks_decoder=(1,) * (n - 1), transpose=tuple(range(ndim)), crop_to_nonzero=False, **sizes)


# --- the two recipes --------------------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Recipe:
    """What differs between the bundled models."""

    plan: Plan
    settings: Settings
    weigh: Callable[[list[Case], dict[str, Any]], None]
    describe: Callable[[Model, Dataset, Path], Model]


def weigh_kinds(cases: list[Case], info: dict[str, Any]) -> None:
    """Draw each kind of picture as often as `SHARES` says, however many there are of it."""
    kinds = {file["id"]: file["category"] for file in info["files"]}
    counts = {kind: sum(kinds[case.name] == kind for case in cases) for kind in SHARES}
    for case in cases:
        case.weight = SHARES[kinds[case.name]] / counts[kinds[case.name]]


def describe_nuclei(model: Model, data: Dataset, folder: Path) -> Model:
    """Choose the decoder on training pictures, then score by kind of picture on the validation ones."""
    decoder = tune_decoder(model, data)
    model = dataclasses.replace(model, decoder=decoder.to_json())
    scores = score_kinds(model, data)
    baseline = {kind: round(value, 3) for kind, value in baseline_f1(folder).items()}
    return dataclasses.replace(
        model, title="Nuclei (2-D)", licence="Apache-2.0",
        description="Finds nuclei in fluorescence, tissue (H&E) and brightfield pictures, in colour or grey.",
        classes=("background", "nucleus"),
        scores=scores | {"otsu_watershed_f1@0.5": baseline, "conventions": {
            "f1@0.5": "2 TP / (2 TP + FP + FN) of objects, Hungarian matching, IoU 0.5, mean over pictures",
            "mean_ap": "TP / (TP + FP + FN), mean over IoU 0.5:0.05:0.95, mean over pictures"}})


def describe_hippocampus(model: Model, data: Dataset, _: Path) -> Model:
    """Score by class on the validation volumes."""
    return dataclasses.replace(
        model, title="Hippocampus (MRI)", licence="CC-BY-SA-4.0", scores=score_model(model, data, "cpu"),
        description="Anterior and posterior hippocampus in T1 MRI that is cropped around one hippocampus.")


RECIPES = {
    "nuclei-2d": Recipe(
        plan_of(2, (24, 48, 96, 144, 176, 176), patch_size=(256, 256), batch_size=6, batch_dice=True,
                normalisation=("zscore",) * 3, use_mask_for_norm=(False,) * 3),
        Settings(optimizer="adamw", rate=1e-3, instances=True, pictures=True), weigh_kinds, describe_nuclei),
    "hippocampus-mri": Recipe(
        plan_of(3, (20, 40, 80, 160), patch_size=(40, 56, 40), batch_size=4, spacing=(1.0, 1.0, 1.0)),
        # mirrored left and right only: the other axes tell front from back
        Settings(optimizer="adamw", rate=1e-3, mirror_axes=(2,), average=0.995),
        lambda cases, info: None, describe_hippocampus),
}


# --- judging the nuclei model -----------------------------------------------------------------------------------------

def probabilities_of(model: Model, case: CaseFiles, n_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities of a picture and its true labels."""
    image, labels = case.read()
    return predict([model.built], frame_of(image, n_channels), None, model.plan, n_classes=3, kind="instances"), labels


def tune_decoder(model: Model, data: Dataset) -> Decoder:
    """The decoder with the highest mean F1 on a few training pictures of each kind; validation is not looked at."""
    kinds = {file["id"]: file["category"] for file in data.info["files"]}
    chosen = [case for kind in SHARES for case in
              [c for c in data.train if kinds[c.name] == kind][::7][:N_TUNING_PICTURES]]
    pairs = [probabilities_of(model, case, data.n_channels) for case in chosen]
    grid = [Decoder(foreground=f, seed=s, split=p, min_size=m)
            for f in (0.4, 0.45, 0.5) for s in (0.4, 0.5, 0.6) for p in (0.55, 0.65, 0.75) for m in (8.0, 16.0, 24.0)]
    found = [(float(np.mean([f1(truth, decoder.decode(p)) for p, truth in pairs])), decoder) for decoder in grid]
    best, decoder = max(found, key=lambda pair: pair[0])
    print(f"decoder {decoder}: F1 {best:.3f} on {len(pairs)} training pictures; "
          f"defaults {np.mean([f1(t, Decoder().decode(p)) for p, t in pairs]):.3f}, "
          f"authors' {np.mean([f1(t, Decoder('components').decode(p)) for p, t in pairs]):.3f}")
    return decoder


def score_kinds(model: Model, data: Dataset) -> dict[str, Any]:
    """F1 and mean AP on the validation pictures, over all and by kind."""
    kinds = {file["id"]: file["category"] for file in data.info["files"]}
    rows: dict[str, list[tuple[float, float]]] = {"all": []}
    for case in data.validation:
        image, truth = case.read()
        labels = segment(image, model, device="cpu").labels
        row = f1(truth, labels), float(np.mean(list(average_precision(truth, labels).values())))
        rows["all"].append(row)
        rows.setdefault(kinds[case.name], []).append(row)
    return {"n_images": {kind: len(values) for kind, values in rows.items()},
            "f1@0.5": {kind: round(float(np.mean(values, 0)[0]), 3) for kind, values in rows.items()},
            "mean_ap": {kind: round(float(np.mean(values, 0)[1]), 3) for kind, values in rows.items()}}


# --- the run ----------------------------------------------------------------------------------------------------------

class Log:
    """Prints a line of progress a minute."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, update: Progress) -> None:
        if time.monotonic() - self._last_s > 60:
            self._last_s = time.monotonic()
            left = "" if update.seconds_left is None else f", {update.seconds_left / 60:.0f} min left"
            print(f"{update.stage} {update.done} of {update.total}{left}. {update.message}", flush=True)


def package(name: str, recipe: Recipe, data: Dataset, folder: Path, state: Checkpoint, network: torch.nn.Module,
            work: Path, started: dict[str, Any]) -> Model:
    """Save the trained network with its scores; weights in half precision, so that the package stays small."""
    source = {key: data.info[key] for key in ("name", "licence", "citation", "source_repository") if key in data.info}
    kind = "instances" if data.instances else "classes"
    training = {"data": source, "n_cases": len(data.train), "n_held_out": len(data.validation),
                "iterations": state.iteration, "seconds": round(state.elapsed_s),
                "optimizer": recipe.settings.optimizer, **started,
                "command": " ".join(["python tools/train_bundled.py", *sys.argv[1:]]),
                "history": state.history[:: max(1, len(state.history) // 20)]}
    model = Model(name=name, title=name, description=name, network=NETWORK, plan=recipe.plan, classes=data.classes,
                  network_config=config_from_plan(recipe.plan, data.n_channels, 3), channels=data.channels, kind=kind,
                  licence=source["licence"], decoder={} if data.instances else None, training=training,
                  mirror_axes=recipe.settings.mirror_axes or tuple(range(recipe.plan.ndim)))
    weights = network.state_dict()
    candidate = save_package(work / "package", model, weights, half=True)
    finished = recipe.describe(candidate, data, folder)
    return save_package(BUNDLED / name, finished, weights, half=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", metavar="MODEL", help="weights to begin with: a bundled name or a package")
    parser.add_argument("--rate", type=float, help="learning rate at the start; left out: the recipe's")
    given = parser.parse_args()
    recipe, work = RECIPES[given.name], given.runs / given.name
    settings = dataclasses.replace(recipe.settings, minutes=given.minutes, iterations=given.iterations,
                                   rate=given.rate or recipe.settings.rate)
    data = open_dataset(given.data)
    cases, validation = (prepare_cases(data, list(part), recipe.plan) for part in (data.train, data.validation))
    for part in (cases, validation):
        recipe.weigh(part, data.info)
    torch.manual_seed(0)
    network = build(NETWORK, **config_from_plan(recipe.plan, data.n_channels, 3, deep_supervision=True))
    started = {}
    if given.start:
        start = load_model(given.start)
        network.load_state_dict(start.built.state_dict())
        started = {"started_from": {"name": start.name, "checksum": start.checksum,
                                    **{key: start.training.get(key) for key in ("iterations", "seconds")}}}
    state = fit(network, cases, validation, recipe.plan, settings, work, given.resume, Log())
    model = package(given.name, recipe, data, given.data, state, network, work, started)
    print(json.dumps(model.scores, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
