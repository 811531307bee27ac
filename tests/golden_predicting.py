"""nnU-Net's fixtures of prediction: windows, weights, whole predictions with fixed networks and with stock models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from golden_compare import Arrays, Check, Found, Record, greatest, half_steps, load, n_different, near, read
from mambaseg import io
from mambaseg.io.channels import read_channels
from mambaseg.models.importer.checkpoint import Checkpoint
from mambaseg.models.importer.nnunet_folder import read_folder
from mambaseg.nets import canonical_key
from mambaseg.plan import Plan
from mambaseg.plan.rules import to_plan
from mambaseg.predict.blend import gaussian_weights, probabilities_to_labels
from mambaseg.predict.run import predict_logits, to_frame
from mambaseg.predict.windows import window_starts
from mambaseg.prepare import Prepared, prepare

SHARE_OF_LABELS = 1e-3  # that may differ


class TinyNetwork(torch.nn.Sequential):
    """The fixtures' network: 3x3 convolution, leaky ReLU, 1x1 convolution."""

    def __init__(self, arrays: Arrays, fold: int) -> None:
        weights = {key: torch.from_numpy(arrays[f"w{fold}__{key}"]).float()
                   for key in ("c1.weight", "c1.bias", "c2.weight", "c2.bias")}
        convolution = torch.nn.Conv3d if weights["c1.weight"].ndim == 5 else torch.nn.Conv2d
        hidden, channels = weights["c1.weight"].shape[:2]
        super().__init__(convolution(channels, hidden, 3, padding=1), torch.nn.LeakyReLU(0.01),
                         convolution(hidden, len(weights["c2.weight"]), 1))
        self.load_state_dict({key.replace("c1", "0").replace("c2", "2"): value for key, value in weights.items()})


def steps(path: Path) -> list[Check]:
    """Window positions."""
    wrong = [case for case in read(path)
             if [list(window_starts(*axis, case["step"])) for axis in zip(case["image"], case["tile"], strict=True)]
             != case["steps"]]
    return [Check("cases", len(wrong), 0)]


def weight_map(tile: list[int], name: str, record: Record, arrays: Arrays) -> list[Check]:
    """A window's weights: in half precision as nnU-Net uses them, and before rounding."""
    weights = gaussian_weights(tuple(tile))
    half = weights.astype(np.float16)
    half[half == 0] = half[half > 0].min()
    found = [Check("sum", abs(weights.sum(dtype=np.float64) / record["fp32"]["sum_float64"] - 1), 1e-6),
             Check("half-precision sum", abs(half.sum(dtype=np.float64) / record["fp16"]["sum_float64"] - 1), 1e-4)]
    if f"{name}_fp16" in arrays:
        found.append(Check("half-precision steps", half_steps(half, arrays[f"{name}_fp16"]), 1))
    for axis in range(len(tile)):
        centre = tuple(slice(None) if other == axis else side // 2 for other, side in enumerate(tile))
        found += near("profile", weights[centre], arrays.get(f"{name}_fp32_profile_axis{axis}"), 1e-5)
    return found


def end_to_end(record: Record, arrays: Arrays) -> list[Check]:
    """From an image to labels with a fixed network."""
    plan = to_plan(record["plans"], record["configuration"])
    networks = [TinyNetwork(arrays, fold) for fold in range(record["n_weight_sets"])]
    order = record["dataset_json"].get("regions_class_order")
    kind = "classes" if order is None else "regions"
    frame = arrays["image"].astype(np.float32)
    how = {"n_classes": networks[0][-1].out_channels, "mirror_axes": record["mirror_axes"] or (),
           "step": record["tile_step_size"], "gaussian": record["use_gaussian"]}
    prepared = prepare(frame, record["spacing"], plan)
    logits = stock_logits(networks, prepared, plan, **how)
    found = near("prepared", prepared.array, arrays.get("preprocessed"), 2e-5)
    if "logits" in arrays:
        ours = predict_logits(networks, prepared.array, plan, **how)
        found += [Check("logits", greatest(logits, arrays["logits"]), 1e-2),
                  Check("median, single-precision sums", float(np.median(np.abs(ours - arrays["logits"]))), 1e-2)]
    return [*found, *outputs(logits, prepared, kind, order, arrays.get("probabilities"), arrays.get("segmentation"))]


def stock_logits(networks: list[torch.nn.Module], prepared: Prepared, plan: Plan, **how: object) -> np.ndarray:
    """Logits summed over windows and networks in half precision, as nnU-Net does and pays for in the corners."""
    return sum(predict_logits([network], prepared.array, plan, sums=torch.float16, **how).astype(np.float16)
               for network in networks) / np.float16(len(networks))


def outputs(logits: np.ndarray, prepared: Prepared, kind: str, order: list[int] | None,
            want_probabilities: np.ndarray | None, want_labels: np.ndarray | None) -> list[Check]:
    """Probabilities and labels on the image's own grid."""
    probabilities = to_frame(logits.astype(np.float32), prepared, kind)
    labels = probabilities_to_labels(probabilities, kind, order)
    found = []
    if want_probabilities is not None:
        want = want_probabilities.reshape(len(want_probabilities), *want_probabilities.shape[-labels.ndim:])
        found.append(Check("probabilities", greatest(probabilities, want), 5e-3))
    if want_labels is not None:
        share = n_different(labels, want_labels.reshape(want_labels.shape[-labels.ndim:])) / labels.size
        found.append(Check("share of labels", share, SHARE_OF_LABELS))
    return found


def sliding(folder: Path) -> Found:
    """Window positions, weights, and whole predictions."""
    yield "sliding/steps", steps(folder / "steps.json")
    maps = load(folder, "gaussian")
    for record in read(folder / "gaussian.json"):
        name = "x".join(map(str, record["tile"]))
        yield f"sliding/gaussian_{name}", weight_map(record["tile"], name, record, maps)
    for record in read(folder / "e2e.json"):
        yield f"sliding/e2e_{record['name']}", end_to_end(record, load(folder, f"e2e_{record['name']}"))


def stock_network(checkpoint: Checkpoint, plan: Plan) -> torch.nn.Module:
    """nnU-Net's own U-Net, from its library, with the weights of a checkpoint."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    weights = {canonical_key(key): value for key, value in checkpoint.weights.items()}
    is_residual = "encoder.stem.convs.0.conv.weight" in weights
    stem = weights[f"encoder.{'stem' if is_residual else 'stages.0.0'}.convs.0.conv.weight"]
    architecture = ResidualEncoderUNet if is_residual else PlainConvUNet
    blocks = {("n_blocks_per_stage" if is_residual else "n_conv_per_stage"): plan.n_blocks_encoder}
    network = architecture(
        stem.shape[1], len(plan.strides), plan.features_per_stage, (torch.nn.Conv2d, torch.nn.Conv3d)[plan.ndim - 2],
        plan.kernel_sizes, plan.strides, num_classes=len(weights["decoder.seg_layers.0.weight"]),
        n_conv_per_stage_decoder=plan.n_blocks_decoder, conv_bias=True,
        norm_op=(torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)[plan.ndim - 2],
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=False, **blocks)
    network.load_state_dict(checkpoint.weights)
    return network


def models(folder: Path) -> Found:
    """Stock model folders, run on their test images with and without mirroring."""
    for path in sorted(folder.iterdir()):
        for trainer in sorted(path.glob("Dataset*/*__*__*")):
            checkpoints, _ = read_folder(trainer)
            plan = to_plan(checkpoints[0].plans, checkpoints[0].configuration)
            networks = [stock_network(checkpoint, plan) for checkpoint in checkpoints]
            for case, files in sorted(raw_cases(path / "imagesTs").items()):
                for mode, axes in (("notta", ()), ("tta", checkpoints[0].mirror_axes)):
                    expected = path / f"expected_{mode}"
                    if expected.is_dir():
                        yield (f"models/{path.name}/{case}_{mode}",
                               model_checks(files, networks, plan, checkpoints[0].dataset, axes, expected / case))


def raw_cases(folder: Path) -> dict[str, list[Path]]:
    """Files of each case, a channel each."""
    cases: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        cases.setdefault(path.name.rsplit("_", 1)[0], []).append(path)
    return cases


def model_checks(files: list[Path], networks: list[torch.nn.Module], plan: Plan, dataset: Record,
                 mirror_axes: tuple[int, ...], expected: Path) -> list[Check]:
    """One prediction of a stock model against its probabilities and labels."""
    image = read_channels(files)
    order = dataset.get("regions_class_order")
    labels = dataset["labels"]
    prepared = prepare(next(image.frames()), image.grid.spacing, plan)
    n_classes = len(labels) - 1 if order else len([name for name in labels if name != "ignore"])
    logits = stock_logits(networks, prepared, plan, n_classes=n_classes, mirror_axes=mirror_axes)
    want: Arrays = load(expected.parent, expected.name) if expected.with_suffix(".npz").is_file() else {}
    label_file = expected.with_name(expected.name + dataset["file_ending"])
    return outputs(logits, prepared, "regions" if order else "classes", order, want.get("probabilities"),
                   io.read_labels(label_file).data if label_file.is_file() else None)


def state_dict_keys(path: Path) -> Found:
    """Keys of stock networks: every alias leads to one name, and a checkpoint of them loads."""
    for architecture, record in read(path).items():
        keys = {key: (tuple(shape), first) for key, shape, first in record["keys"]}
        astray = [key for key, (_, first) in keys.items() if canonical_key(key) != canonical_key(first)]
        names = {canonical_key(key): shape for key, (shape, _) in keys.items()}
        network = of_keys(record["config"], {key: torch.zeros(shape) for key, (shape, _) in keys.items()})
        own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        yield f"state_dict_keys/{architecture}", [
            Check("aliases", len(astray), 0), Check("unique", abs(len(names) - record["n_unique"]), 0),
            Check("keys", len({(key, shape) for key, (shape, _) in keys.items()} ^ set(own.items())), 0)]


def of_keys(config: Record, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The stock network that a checkpoint of these keys would make."""
    n_stages = config["n_stages"]
    blocks = config.get("n_conv_per_stage") or config["n_blocks_per_stage"]
    plan = Plan(ndim=len(config["strides"][0]), patch_size=(), batch_size=1, kernel_sizes=config["kernel_sizes"],
                features_per_stage=config["features_per_stage"][:n_stages], strides=config["strides"],
                n_blocks_encoder=blocks, n_blocks_decoder=config["n_conv_per_stage_decoder"], transpose=())
    return stock_network(Checkpoint(Path(), weights), plan)
