"""A model folder of nnU-Net's, which stock `nnUNetv2_predict` runs: plans.json, dataset.json and a checkpoint a fold.

nnU-Net's own networks need nothing but nnU-Net there. Others are named by the dotted path of
`mambaseg.nets.for_nnunet.build`, so mambaseg has to be installed beside it. What nnU-Net cannot do is refused, unless
it concerns few images; then it is told.
"""

from __future__ import annotations

import io
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mambaseg.models.exporter._refusal import check_outputs, refusal
from mambaseg.models.model import Model
from mambaseg.nets import canonical_key
from mambaseg.nets.for_nnunet import CLASS_NAME
from mambaseg.plan import Plan
from mambaseg.plan._nnunet_form import (
    OWN_WORDS,
    SCHEME_CLASSES,
    TURNING_READER,
    Configuration,
    write_configuration,
)
from mambaseg.plan.network_size import Blocks, Topology
from mambaseg.plan.rules import to_plan

__all__ = ["write_nnunet"]

_FORMAT = "nnU-Net"
_CONFIGURATION = {2: "2d", 3: "3d_fullres"}
_STAGES = ("3d_lowres", "3d_cascade_fullres")  # of a cascade
_TRAINER = "nnUNetTrainer"
_IS_RESIDUAL = {"nnunet": False, "nnunet-resenc": True}  # networks that nnU-Net has itself
_MM_PER_UM = 1e-3
_KEEP_LARGEST = ("nnunetv2.postprocessing.remove_connected_components",
                 "remove_all_but_largest_component_from_segmentation")


def write_nnunet(model: Model, folder: Path) -> tuple[str, ...]:
    """Write a model into an empty folder, one fold for each network; of a cascade a folder in it for each stage.

    Returns
    -------
    Sentences for people

    Raises
    ------
    ModelError : nnU-Net cannot do what the model does, so that its labels would be others
    """
    for stage in model.stages:
        _check(stage)
    if not model.previous:
        _write_folder(model, folder, _CONFIGURATION[model.plan.ndim])
        return _notes(model)
    notes: list[str] = []
    for stage, configuration in zip(model.stages, _STAGES, strict=True):
        inner = folder / f"{_TRAINER}__nnUNetPlans__{configuration}"
        inner.mkdir()
        _write_folder(stage, inner, configuration)
        notes += _notes(stage)
    return (*dict.fromkeys(notes), "The two folders belong below $nnUNet_results/Dataset900_NAME: run nnUNetv2_predict "
            f"with -c {_STAGES[0]}, then with -c {_STAGES[1]} and the first one's labels as -prev_stage_predictions.")


def _write_folder(model: Model, folder: Path, configuration: str) -> None:
    """The folder of a trainer, for one configuration."""
    plans, dataset = _plans(model, configuration), _dataset(model)
    for name, values in (("plans.json", plans), ("dataset.json", dataset)):
        (folder / name).write_text(json.dumps(values, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    for fold, network in enumerate(model.build_all()):
        content = io.BytesIO()  # torch's own writer ends the process where the disk is full
        torch.save({
            "network_weights": _weights(network), "trainer_name": _TRAINER,
            "init_args": {"configuration": configuration, "fold": fold, "plans": plans,
                          "dataset_json": dataset},
            # stock takes the largest of the axes, which an empty tuple has not
            "inference_allowed_mirroring_axes": tuple(model.mirror_axes) or None}, content)
        (folder / f"fold_{fold}").mkdir()
        (folder / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(content.getbuffer())
    if model.keep_largest:
        _write_postprocessing(model, folder)


def _check(model: Model) -> None:
    """Refuse what would get other labels from nnU-Net."""
    plan = model.plan
    if any(member.group or (member.network, member.network_config) != (model.network, model.network_config)
           for member in model.members):
        raise refusal(_FORMAT, model, "averages the probabilities of different networks, which nnU-Net does only with "
                      "nnUNetv2_ensemble; export its models one by one and join their results with that")
    if plan.fit != "windows":
        raise refusal(_FORMAT, model, "resizes whole images to its input, where nnU-Net always goes window by window")
    unknown = [scheme for scheme in plan.normalisation if scheme not in SCHEME_CLASSES]
    if unknown:
        raise refusal(_FORMAT, model, f"normalises by {unknown[0]!r}, and nnU-Net has only "
                      f"{', '.join(SCHEME_CLASSES)}; train a model with one of these")
    if plan.ndim == 2 and len(plan.transpose) == 3 and plan.spacing is None:
        raise refusal(_FORMAT, model, "takes slices on each volume's own grid, where nnU-Net always resamples")
    if "ignore" in model.classes:
        raise refusal(_FORMAT, model, 'has a class of the name "ignore", which nnU-Net takes for unlabelled voxels')
    check_outputs(_FORMAT, model)


def _plans(model: Model, name: str) -> dict[str, Any]:
    """The content of `plans.json`; what nnU-Net reads only while it plans is as far as the model knows it."""
    plan = model.plan
    forward = _three_axes(plan.transpose)
    slices = 1 if _is_picture(plan) else max(plan.patch_size)
    shape = plan.patch_size if plan.ndim == 3 else (slices, *plan.patch_size)
    spacing = _spacing(plan)
    plans: dict[str, Any] = {
        "dataset_name": model.name, "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [*spacing] if plan.ndim == 3 else [max(spacing), *spacing],
        "original_median_shape_after_transp": [*shape], "image_reader_writer": _reader(plan),
        "transpose_forward": [*forward], "transpose_backward": [forward.index(axis) for axis in range(3)],
        "configurations": {name: _configuration(model, name)}, "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): dict(plan.intensities[i]) if i < len(plan.intensities) else {} for i in range(model.n_channels)}}
    read_back, values = to_plan(plans, name).to_json(), plan.to_json()
    unsaid = {key: value for key, value in values.items() if read_back[key] != value}
    return plans | ({OWN_WORDS: unsaid} if unsaid else {})


def _configuration(model: Model, name: str) -> dict[str, Any]:
    """The one configuration of the plans."""
    plan, own = model.plan, model.network_config
    is_stock = model.network in _IS_RESIDUAL
    size = Topology(plan.patch_size, plan.strides, plan.kernel_sizes, ())
    features = plan.features_per_stage
    blocks = {"encoder": plan.n_blocks_encoder, "decoder": plan.n_blocks_decoder}
    if is_stock:
        features = tuple(own["features_per_stage"])
        size = Topology(plan.patch_size, own["strides"], own["kernel_sizes"], ())
        blocks = {part: own[f"n_blocks_{part}"] for part in blocks}
    made = Configuration(_spacing(plan), plan.patch_size, size, features, max(features), plan.batch_size,
                         plan.batch_dice)
    is_residual = _IS_RESIDUAL.get(model.network, True)
    values = write_configuration(made, Blocks(tuple(blocks["encoder"]), 1, is_residual), False, f"nnUNetPlans_{name}",
                                 plan.normalisation, plan.use_mask_for_norm)
    arguments: dict[str, Any] = values["architecture"]["arch_kwargs"]
    arguments["n_conv_per_stage_decoder"] = [*blocks["decoder"]]
    if not is_stock:
        sizes = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_blocks_per_stage",
                 "n_conv_per_stage_decoder")
        values["architecture"] = {"network_class_name": CLASS_NAME, "_kw_requires_import": [], "arch_kwargs": {
            "network": model.network, "network_config": own, **{key: arguments[key] for key in sizes}}}
    if model.previous:
        values["previous_stage"] = _STAGES[0]
    return values


def _dataset(model: Model) -> dict[str, Any]:
    """The content of `dataset.json`."""
    names = ["background", *_different(model.classes[1:])]
    labels: dict[str, Any] = {name: value for value, name in enumerate(names)}
    order: dict[str, Any] = {}
    if model.kind == "instances":
        labels = {"background": 0, f"{names[1]} interior": 1, f"{names[1]} boundary": 2}
    elif model.kind == "regions":
        groups = [list(group) for group in model.class_labels]
        if max(map(len, groups)) == 1:
            groups[1] *= 2  # of the same meaning; nnU-Net knows regions by one that has two labels
        labels = {"background": 0, **dict(zip(names[1:], groups[1:], strict=True))}
        order["regions_class_order"] = [*(model.region_order or range(1, model.n_outputs + 1))]
    n_cases = model.training.get("n_cases")
    return {"name": model.title, "description": model.description, "licence": model.licence,
            "channel_names": {str(i): name for i, name in enumerate(model.channels)}, "labels": labels, **order,
            "numTraining": n_cases if isinstance(n_cases, int) else 0, "file_ending": _ENDINGS[_reader(model.plan)]}


def _different(names: tuple[str, ...]) -> list[str]:
    """Names of which no two are the same, as keys have to be."""
    return [name if name not in (*names[:i], "background") else f"{name} {i + 1}" for i, name in enumerate(names)]


def _three_axes(transpose: tuple[int, ...]) -> tuple[int, ...]:
    """The order of axes with that of slices, which nnU-Net gives to pictures too."""
    return transpose if len(transpose) == 3 else (0, *(axis + 1 for axis in transpose))


def _is_picture(plan: Plan) -> bool:
    return len(plan.transpose) == 2


_ENDINGS = {"NaturalImage2DIO": ".png", "Tiff3DIO": ".tiff", "SimpleITKIO": ".nii.gz", TURNING_READER: ".nii.gz"}


def _reader(plan: Plan) -> str:
    """nnU-Net's reader; the first two take every grid as it is, and the last one turns volumes to RAS."""
    if plan.orientation == "RAS":
        return TURNING_READER
    if plan.spacing is not None:
        return "SimpleITKIO"
    return "NaturalImage2DIO" if plan.ndim == 2 else "Tiff3DIO"


def _spacing(plan: Plan) -> tuple[float, ...]:
    """Voxel size in mm, as nnU-Net's readers give it; 1 where none is known."""
    if plan.spacing is None:
        return (1.0,) * plan.ndim
    return tuple(size * (_MM_PER_UM if plan.unit == "um" else 1.0) for size in plan.spacing)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """The state dictionary; of nnU-Net's networks under all the names that strict loading there asks for."""
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    named = itertools.chain(network.named_parameters(remove_duplicate=False),
                            network.named_buffers(remove_duplicate=False))
    aliases = {name: state[canonical_key(name)] for name, _ in named if canonical_key(name) in state}
    return state | aliases


def _write_postprocessing(model: Model, folder: Path) -> None:
    """``postprocessing.pkl`` as nnU-Net writes it, and the same in words; nnU-Net need not be here for that.

    The file names a function of nnU-Net's, once for each group, and has its arguments. Pickle looks such a function up
    before it writes the name; hence the name is written by hand.
    """
    arguments = [{"labels_or_regions": [*group] if len(group) > 1 else group[0]} for group in model.keep_largest]
    names = f"c{_KEEP_LARGEST[0]}\n{_KEEP_LARGEST[1]}\n".encode() * len(arguments)  # "global" of pickle's protocol 0
    plain = pickle.dumps(arguments, 2)[2:-1]  # without the protocol's number and the full stop
    (folder / "postprocessing.pkl").write_bytes(b"\x80\x02](" + names + b"e" + plain + b"\x86.")
    words = {"postprocessing_fns": [_KEEP_LARGEST[1]] * len(arguments), "postprocessing_kwargs": arguments}
    (folder / "postprocessing.json").write_text(json.dumps(words, indent=4) + "\n", encoding="utf-8")


def _notes(model: Model) -> tuple[str, ...]:
    """What the user of the folder should know."""
    plan = model.plan
    notes = {
        "The network is not one of nnU-Net's own: mambaseg has to be installed beside nnU-Net.":
            model.network not in _IS_RESIDUAL,
        "nnU-Net mirrors images by default, mambaseg does not: compare with nnUNetv2_predict --disable_tta, or with "
        "mambaseg segment --tta.": bool(model.mirror_axes),
        "nnU-Net cuts away a rim of zeros before it normalises, this model does not: images with such a rim may get "
        "other labels.": not plan.crop_to_nonzero,
        "nnU-Net gives the classes interior and boundary; objects are numbered only by mambaseg.":
            model.kind == "instances",
        "nnUNetv2_predict keeps all pieces of a class, this model only the largest; nnUNetv2_apply_postprocessing with "
        "-pp_pkl_file postprocessing.pkl of this folder removes the others.": bool(model.keep_largest),
        "nnU-Net reads 3-D TIFF files; voxel sizes in JSON files beside them would be taken for a wish to resample, so "
        "leave them out.": _reader(plan) == "Tiff3DIO",
        f"nnU-Net takes volumes as they are stored, where mambaseg turns them to {plan.orientation} first: give it "
        "volumes whose axes lead that way.": plan.orientation not in ("", "RAS"),
    }
    return tuple(note for note, is_so in notes.items() if is_so)
