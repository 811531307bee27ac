"""Run a folder of parity fixtures: ``python tests/parity.py FOLDER [NAME ...]``.

A fixture is NAME.keys.json, NAME.npz and NAME.grads.npz: official networks run with weights that a rule makes from
their key names. Prints a line a fixture, ``NAME difference tolerance ok|FAIL|unknown``: of all comparisons of the
fixture (keys, parameter count, outputs in single and double precision, gradients) the one nearest to its tolerance.
Exit status 1 when something fails or is unknown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent / "data" / "parity"))
import detw
import parity_losses
from golden_compare import Arrays, Check, Record
from mambaseg.nets import build, canonical_key, load_official
from mambaseg.nets.layers import Mamba, MambaLayer
from mambaseg.nets.pvt import PatchEmbedding, PVTBlock
from mambaseg.nets.sdi import SDI, ChannelAttention, SpatialAttention
from mambaseg.nets.umamba import ResBlock, Upsample
from mambaseg.nets.vssm import SS2D, PatchEmbed, PatchExpand, PatchMerging, VSSBlock
from mambaseg.ops import selective_scan

SCAN_BACKENDS = ("reference", "torch", "cpu")


# --- building ---------------------------------------------------------------------------------------------------------

def umamba(args: Record) -> torch.nn.Module:
    return build(f"umamba-{args['variant']}", in_channels=args["input_channels"], n_classes=args["num_classes"],
                 features_per_stage=args["features_per_stage"], kernel_sizes=args["kernel_sizes"],
                 strides=args["strides"], n_blocks_encoder=args["n_conv_per_stage"],
                 n_blocks_decoder=args["n_conv_per_stage_decoder"], patch_size=args["input_size"],
                 deep_supervision=args["deep_supervision"], generation=args["generation"])


def vmunet(args: Record) -> torch.nn.Module:
    return build("vmunet", n_classes=args["num_classes"], in_channels=args["input_channels"], depths=args["depths"],
                 depths_decoder=args["depths_decoder"], width=args["dims"][0], d_state=args["d_state"])


def vmunetv2(args: Record) -> torch.nn.Module:
    return build("vmunetv2", n_classes=args["num_classes"], in_channels=args["input_channels"], depths=args["depths"],
                 mid_channel=args["mid_channel"], d_state=args["d_state"], deep_supervision=args["deep_supervision"])


def unetv2(args: Record) -> torch.nn.Module:
    return build("unetv2", n_classes=args["n_classes"], backbone=args["backbone"].removeprefix("pvt_v2_"),
                 channel=args["channel"], deep_supervision=args["deep_supervision"])


class Wrapped(torch.nn.Module):
    """Modules under the names that a fixture gives them, and how it calls them: ``call(self, *inputs)``."""

    def __init__(self, call: Callable[..., Any], **children: torch.nn.Module) -> None:
        super().__init__()
        self.call = call
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.call(self, *inputs)


def attend(wrapped: Wrapped, x: torch.Tensor) -> torch.Tensor:
    x = wrapped.ca(x) * x
    return wrapped.sa(x) * x


def pvt_block(wrapped: Wrapped, x: torch.Tensor) -> torch.Tensor:
    return wrapped.blk(x.flatten(2).transpose(1, 2), tuple(x.shape[2:]))


FAMILIES: dict[str, Callable[[Record], torch.nn.Module]] = {
    "umamba": umamba, "vmunet": vmunet, "vmunetv2": vmunetv2, "unetv2": unetv2}
BLOCKS: dict[str, Callable[[Record], torch.nn.Module]] = {
    "Mamba": lambda a: Mamba(a["d_model"], a["d_state"], a["d_conv"], a["expand"]),
    "MambaLayer": lambda a: MambaLayer(a["dim"], a["channel_token"]),
    "BasicResBlock": lambda a: ResBlock(a["input_channels"], a["output_channels"], a["kernel_size"], a["stride"]),
    "UpsampleLayer": lambda a: Upsample(a["input_channels"], a["output_channels"], a["scale"]),
    "SS2D": lambda a: SS2D(a["d_model"], a["d_state"]),
    "VSSBlock": lambda a: VSSBlock(a["hidden_dim"]),
    "PatchEmbed2D": lambda a: PatchEmbed(a["in_chans"], a["embed_dim"], a["patch_size"]),
    "PatchMerging2D": lambda a: PatchMerging(a["dim"]),
    "PatchExpand2D": lambda a: PatchExpand(2 * a["dim"], a["dim_scale"]),
    "Final_PatchExpand2D": lambda a: PatchExpand(a["dim"], a["dim_scale"]),
    "ChannelAttention then SpatialAttention": lambda a: Wrapped(attend, ca=ChannelAttention(a["in_planes"]),
                                                                sa=SpatialAttention()),
    "SDI": lambda a: Wrapped(lambda self, *levels: [self.sdi(levels, anchor) for anchor in range(len(levels))],
                             sdi=SDI(a["channel"])),
    "OverlapPatchEmbed": lambda a: Wrapped(lambda self, x: self.pe(x)[0],
                                           pe=PatchEmbedding(3, a["embed_dim"], a["patch_size"], a["stride"])),
    "PVTv2 Block": lambda a: Wrapped(pvt_block, blk=PVTBlock(a["dim"], a["heads"], a["mlp_ratio"], a["sr_ratio"])),
}


def network(record: Record) -> torch.nn.Module | None:
    """The module a fixture asks for, None if we have no such network."""
    family, args = record["family"], record["args"]
    make = BLOCKS.get(args["cls"]) if family == "block" else FAMILIES.get(family)
    return None if make is None else make(args).eval()


# --- comparing --------------------------------------------------------------------------------------------------------

def output_checks(record: Record, arrays: Arrays, outputs: list[torch.Tensor], label: str) -> Iterator[Check]:
    """Outputs against the official ones of the same precision."""
    double = outputs[0].dtype == torch.float64
    operator = record["family"] in ("scan", "block")
    for output, spec in zip(outputs, record["outputs"], strict=True):
        name = spec["name"]
        if double:
            want = arrays[f"{name}_f64"]
            greatest, _ = detw.compare(output.detach().numpy(), want, spec)
            yield Check(f"{label} {name} double", greatest, 1e-6 * max(1.0, float(np.abs(want).max())))
            continue
        greatest, median = detw.compare(output.detach().numpy(), arrays[name], spec)
        if operator:
            yield Check(f"{label} {name}", greatest, 1e-4 if record["name"] == "block_sdi" else 1e-5)
            continue
        yield Check(f"{label} {name} maximum", greatest, max(2e-4, 4 * spec["fp32_vs_fp64_max"]))
        yield Check(f"{label} {name} median", median, max(2e-5, 4 * spec["fp32_vs_fp64_median"]))


def gradient_checks(record: Record, arrays: Arrays, gradients: dict[str, torch.Tensor], label: str) -> Iterator[Check]:
    """Gradients (key or ``input:NAME`` -> tensor) against the official double-precision ones, relative L2."""
    for spec in record["grads"]:
        got = gradients[spec["name"]]
        single = 0.2 if record["family"] == "umamba" else 1e-3
        tolerance = 1e-5 if got.dtype == torch.float64 else single
        error = detw.compare_grad(got.numpy(), arrays[f"grad:{spec['name']}"], spec)
        yield Check(f"{label} gradient {spec['name']}", error, tolerance)


def loss(outputs: list[torch.Tensor], is_scan: bool) -> torch.Tensor:
    """The scalar that the fixtures differentiate."""
    squares = torch.stack([output.double().pow(2).mean() for output in outputs])
    return squares.sum() if is_scan else squares.mean()


# --- running ----------------------------------------------------------------------------------------------------------

def scan_checks(record: Record, arrays: Arrays) -> Iterator[Check]:
    args = record["args"]
    runs = [(backend, torch.float32) for backend in SCAN_BACKENDS]
    runs += [(backend, torch.float64) for backend in SCAN_BACKENDS if backend != "cpu"]
    for backend, dtype in runs:
        tensors = {name: torch.from_numpy(value).to(dtype).requires_grad_()
                   for name, value in detw.inputs(record).items()}
        outputs = list(selective_scan(**tensors, delta_softplus=args["delta_softplus"],
                                      return_last_state=True, backend=backend))
        outputs = outputs[: len(record["outputs"])]
        yield from output_checks(record, arrays, outputs, backend)
        if record["grads"]:
            loss(outputs, is_scan=True).backward()
            gradients = {f"input:{name}": value.grad for name, value in tensors.items()}
            yield from gradient_checks(record, arrays, gradients, backend)


def key_checks(record: Record, model: torch.nn.Module) -> Iterator[Check]:
    """Canonical keys in the official order, and the number of parameters."""
    official = list(dict.fromkeys(canonical_key(key) for key, _, _ in record["keys"]))
    own = list(model.state_dict())
    wrong = sum(a != b for a, b in zip(official, own, strict=False)) + abs(len(official) - len(own))
    yield Check("keys", wrong, 0)
    n_params = sum(p.numel() for p in model.parameters())
    yield Check("parameters", abs(n_params - record["n_params"]), 0)


def network_checks(record: Record, arrays: Arrays, model: torch.nn.Module) -> Iterator[Check]:
    yield from key_checks(record, model)
    if not any(not name.startswith("grad:") for name in arrays):
        return  # keys only
    load_official(model, {key: torch.from_numpy(detw.tensor(key, shape, dtype))
                          for key, shape, dtype in record["keys"]})
    for dtype in (torch.float32, torch.float64):
        model.to(dtype).zero_grad()
        inputs = {name: torch.from_numpy(value).to(dtype).requires_grad_(bool(record["grads"]))
                  for name, value in detw.inputs(record).items()}
        with torch.set_grad_enabled(bool(record["grads"])):
            result = model(*inputs.values())
        outputs = list(result) if isinstance(result, list | tuple) else [result]
        yield from output_checks(record, arrays, outputs, "")
        if record["grads"]:
            loss(outputs, is_scan=False).backward()
            gradients = {canonical_key(name): parameter.grad for name, parameter in model.named_parameters()}
            gradients |= {f"input:{name}": value.grad for name, value in inputs.items()}
            yield from gradient_checks(record, arrays, gradients, "")


def checks(folder: Path, name: str) -> list[Check] | None:
    """All comparisons of one fixture, None if nothing here can run it."""
    record, arrays = detw.load(str(folder), name)
    record |= {"name": name, "grads": record.get("grads", [])}
    if record["family"] == "scan":
        return list(scan_checks(record, arrays))
    model = network(record)
    return None if model is None else list(network_checks(record, arrays, model))


def names(folder: Path) -> list[str]:
    """Fixtures of a folder, sorted."""
    return sorted(path.name.removesuffix(".keys.json") for path in folder.glob("*.keys.json"))


def nearest(found: list[Check]) -> Check:
    """The failing check if there is one, else the one nearest to its tolerance."""
    return max(found, key=lambda c: (not c.passes, c.difference / c.tolerance if c.tolerance else c.difference))


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    wanted = arguments[1:] or names(folder)
    if not wanted:
        print(f"{folder} holds no fixtures (NAME.keys.json)", file=sys.stderr)
        return 1
    status = 0
    for name in wanted:
        found = checks(folder, name)
        if found is None:
            print(f"{name} - - unknown", flush=True)
            status = 1
            continue
        worst = nearest(found)
        if not worst.passes:
            status = 1
            print(json.dumps({name: [c._asdict() for c in found if not c.passes]}), file=sys.stderr)
        print(f"{name} {worst.difference:.3g} {worst.tolerance:.3g} {'ok' if worst.passes else 'FAIL'}", flush=True)
    for item in parity_losses.checks(folder) if not arguments[1:] else ():
        print(item.line, flush=True)
        status |= not item.passes
    return status


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/parity.py FOLDER [NAME ...]")
    sys.exit(main(sys.argv[1:]))
