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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundled_models import BUNDLED_MODELS, BundledModel
from numpy.typing import NDArray

from mambaseg.instances import INSTANCE_TARGETS, Decoder
from mambaseg.models import Model, load_model
from mambaseg.models.ensemble import make_ensemble
from mambaseg.models.package import make_test_input, save_package
from mambaseg.nets import build
from mambaseg.progress import Progress
from mambaseg.train import recipes
from mambaseg.train.checkpoint import Checkpoint
from mambaseg.train.dataset import Dataset, open_dataset
from mambaseg.train.loop import fit
from mambaseg.train.prepared import prepare_cases

BUNDLED = Path(__file__).resolve().parents[1] / "core" / "mambaseg" / "models" / "bundled"
_TEST_PX = 128  # side of the test input of models that answer together, most


class Log:
    """Prints a line of progress a minute."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, update: Progress) -> None:
        if time.monotonic() - self._last_s > 60:
            self._last_s = time.monotonic()
            left = "" if update.seconds_left is None else f", {update.seconds_left / 60:.0f} min left"
            print(f"{update.stage} {update.done} of {update.total}{left}. {update.message}", flush=True)


def described(name: str, recipe: BundledModel, data: Dataset, state: Checkpoint, started: dict[str, Any]) -> Model:
    """The model's card without scores."""
    keys = ("name", "licence", "licence_evidence", "citation", "source_repository", "copyright")
    source = {key: data.info[key] for key in keys if key in data.info}
    settings = recipe.settings
    training = {"data": source, "n_cases": len(data.train), "n_held_out": len(data.validation),
                "iterations": state.iteration, "seconds": round(state.elapsed_s), "optimizer": settings.optimizer,
                **started, "command": " ".join(["python tools/train_bundled.py", *_told()]),
                "history": state.history[:: max(1, len(state.history) // 20)]}
    decoder = Decoder(INSTANCE_TARGETS[settings.instance_target].method).to_json() if data.instances else None
    return Model(name=name, title=name, description=name, network=recipe.network, plan=recipe.plan,
                 classes=data.classes, network_config=recipe.network_config(data), channels=data.channels,
                 kind=data.kind, regions=data.regions, region_order=data.region_order, licence=source["licence"],
                 decoder=decoder, training=training,
                 mirror_axes=tuple(range(recipe.plan.ndim)) if settings.mirror_axes is None else settings.mirror_axes,
                 trained_on=data.signatures())


def _told() -> list[str]:
    """The arguments, without the one that says that this session was not the first."""
    return [argument for argument in sys.argv[1:] if argument != "--resume"]


def read_arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BUNDLED_MODELS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", metavar="MODEL", help="weights to begin with: a bundled name or a package")
    parser.add_argument("--rate", type=float, help="learning rate at the start; left out: the recipe's")
    parser.add_argument("--side", type=int, help="pixels of a side of the patch, to begin with smaller pictures")
    parser.add_argument("--instance-target", choices=INSTANCE_TARGETS, help="left out: the recipe's")
    parser.add_argument("--small-data", action=argparse.BooleanOptionalAction,
                        help="augmentation for few pictures; left out: the recipe's")
    parser.add_argument("--rescore", action="store_true", help="train nothing, score the bundled model anew")
    parser.add_argument("--last", action="store_true",
                        help="keep the state at the end rather than the one with the best Dice on validation patches")
    parser.add_argument("--join", metavar="MODEL", nargs="+", help="train nothing, let these answer together")
    parser.add_argument("--output", type=Path, help="folder of the package; left out: among the bundled ones")
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> BundledModel:
    """The recipe with what was asked for otherwise."""
    recipe: BundledModel = BUNDLED_MODELS[given.name]
    wanted = {"rate": given.rate, "instance_target": given.instance_target, "small_data": given.small_data}
    settings = dataclasses.replace(recipe.settings, minutes=given.minutes, iterations=given.iterations,
                                   **{name: value for name, value in wanted.items() if value is not None})
    plan = recipe.plan
    if given.side:
        plan = dataclasses.replace(plan, patch_size=(given.side,) * plan.ndim)
    return dataclasses.replace(recipe, settings=settings, plan=plan)


def rescored(name: str, recipe: BundledModel, data: Dataset) -> Model:
    """The bundled model with scores that are measured anew."""
    model = load_model(name)
    model = dataclasses.replace(model, scores=recipe.score(model, data))
    return saved(model, model, BUNDLED / name)


def joined(recipe: BundledModel, data: Dataset, given: argparse.Namespace) -> Model:
    """Several trained models as one package, with the training of each."""
    parts = [load_model(part) for part in given.join]
    made = make_ensemble(parts, given.runs / given.name / "joined")
    shared = {key: parts[0].training[key] for key in ("data", "n_cases", "n_held_out")}
    own = [{key: value for key, value in part.training.items() if key not in shared} for part in parts]
    training = shared | {"members": [{"name": part.name, "network": part.network, **each}
                                     for part, each in zip(parts, own, strict=True)]}
    model = recipe.finished(dataclasses.replace(made, name=given.name, training=training), data)
    small = make_test_input(model, sides=[min(side, _TEST_PX) for side in model.plan.patch_size])  # packages are 8 MB
    return saved(model, made, given.output or BUNDLED / given.name, small)


def saved(model: Model, source: Model, folder: Path, test_input: NDArray[np.float32] | None = None) -> Model:
    """A package as `model` describes it, of the networks of `source`."""
    first, *others = [network.state_dict() for network in source.build_all()]
    return save_package(folder, model, first, test_input, members=others, half=True)


def trained(given: argparse.Namespace, recipe: BundledModel, data: Dataset) -> Model:
    """The model after training, saved."""
    work, objective = given.runs / given.name, None
    if recipe.preset is not None:
        objective = recipes.objective(recipes.RECIPES[recipe.preset], recipe.plan, data)
    cases, validation = (prepare_cases(data, list(part), recipe.plan) for part in (data.train, data.validation))
    for part in (cases, validation):
        recipe.weigh(part, data.info)
    torch.manual_seed(0)
    network = build(recipe.network, **recipe.network_config(data, deep_supervision=True))
    started = {}
    if given.start:
        start = load_model(given.start)
        network.load_state_dict(start.built.state_dict())
        started = {"started_from": {"name": start.name, "checksum": start.checksum,
                                    **{key: start.training.get(key) for key in ("iterations", "seconds")}}}
    settings = dataclasses.replace(recipe.settings, regions=data.regions)
    state = fit(network, cases, validation, recipe.plan, settings, work, given.resume, Log(), objective)
    model = described(given.name, recipe, data, state, started)
    weights = (state.average or state.weights) if given.last else network.state_dict()
    candidate = save_package(work / "package", model, weights, half=True)
    return save_package(given.output or BUNDLED / given.name, recipe.finished(candidate, data), weights, half=True)


def main() -> int:
    given = read_arguments()
    recipe = chosen(given)
    data = open_dataset(given.data)
    if recipe.is_binary:
        data = recipes.as_binary(data)
    if given.rescore:
        model = rescored(given.name, recipe, data)
    else:
        model = joined(recipe, data, given) if given.join else trained(given, recipe, data)
    print(json.dumps(model.scores, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
