"""Family and sizes from names and shapes: for every fixture of an official network, also the large ones."""

from pathlib import Path
from typing import Any

import pytest
import torch

import official
from mambaseg import nets
from mambaseg._errors import ModelError
from mambaseg.models.importer.recognise import Recognised, official_names, recognise

Shapes = dict[str, tuple[int, ...]]
NETWORKS = {"umamba", "vmunet", "vmunetv2", "unetv2"}


def shapes_of(record: dict[str, Any]) -> Shapes:
    return {key: tuple(shape) for key, shape, _ in record["keys"]}


def fixture(name: str) -> dict[str, Any]:
    found = official.fixture(name)
    if found is None:
        pytest.skip(f"needs the fixture {name} of shared/parity")
    return found[0]


def recognised(record: dict[str, Any]) -> Recognised:
    args = record["args"]
    return recognise(shapes_of(record), strides=args.get("strides"), patch_size=args.get("input_size") or (
        [64] * args["dim"] if "dim" in args else None))


def expect(record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Network and the sizes that the fixture was made with."""
    args = record["args"]
    if record["family"] == "umamba":
        return f"umamba-{args['variant']}", {
            "generation": args["generation"], "in_channels": args["input_channels"], "n_classes": args["num_classes"],
            "features_per_stage": args["features_per_stage"], "kernel_sizes": args["kernel_sizes"],
            "strides": args["strides"]}
    if record["family"] == "unetv2":
        return "unetv2", {"n_classes": args["n_classes"], "channel": args["channel"],
                          "backbone": args["backbone"].removeprefix("pvt_v2_")}
    sizes = {"n_classes": args["num_classes"], "depths": args["depths"], "d_state": args["d_state"]}
    if record["family"] == "vmunet":
        return "vmunet", sizes | {"depths_decoder": args["depths_decoder"], "width": args["dims"][0]}
    return "vmunetv2", sizes | {"mid_channel": args["mid_channel"]}


def check(record: dict[str, Any]) -> None:
    found = recognised(record)
    network, sizes = expect(record)
    assert found.network == network
    assert {name: found.config[name] for name in sizes} == sizes
    with torch.device("meta"):
        state = nets.build(found.network, **found.config).state_dict()
    ours = {key: tuple(value.shape) for key, value in state.items()}
    assert ours == {nets.canonical_key(key): shape for key, shape in shapes_of(record).items()}


@pytest.mark.parametrize("name", sorted(path.name.removesuffix(".keys.json")
                                        for path in official.FOLDERS[0].glob("*.keys.json")))
def test_bundled_fixtures_are_recognised(name: str) -> None:
    record = fixture(name)
    if record["family"] in NETWORKS:
        check(record)
    else:  # scans and single blocks are no network
        with pytest.raises(ModelError):
            recognise(shapes_of(record))


def test_every_official_network_is_recognised(shared: Path) -> None:
    names = sorted(path.name.removesuffix(".keys.json") for path in (shared / "parity").glob("*.keys.json"))
    records = [record for record in map(fixture, names) if record["family"] in NETWORKS]
    for record in records:
        check(record)
    assert len(records) > 20


def test_aliases_may_be_missing() -> None:
    record = fixture("umamba_enc_2d_v2_tiny_chan")
    own = {nets.canonical_key(key): shape for key, shape in shapes_of(record).items()}
    assert len(own) < len(record["keys"])
    assert recognise(own, strides=2, patch_size=(48, 40)) == recognised(record)


@pytest.mark.parametrize(("patch", "said"), [
    (None, "--patch"), ((48,), "multiples of 8 x 8"), ((50, 40), "multiples of 8 x 8"),
    ((56, 40), r"stage 3 was trained 30 wide, but would be 32.*--patch")])
def test_a_patch_size_that_the_weights_were_not_trained_with_is_refused(patch: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        recognise(shapes_of(fixture("umamba_enc_2d_v2_tiny_chan")), strides=2, patch_size=patch)


@pytest.mark.parametrize(("strides", "said"), [
    (None, "--strides"), (((1, 1), (2, 2)), "2 stages, but the weights have 4"), (((1, 1, 1),) * 4, "2 axes")])
def test_strides_of_generation_2_have_to_be_said(strides: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        recognise(shapes_of(fixture("umamba_enc_2d_v2_tiny_chan")), strides=strides, patch_size=(48, 40))


def test_strides_of_generation_1_are_in_the_weights() -> None:
    record = fixture("umamba_enc_3d_v1_tiny")
    patch = record["args"]["input_size"]
    assert recognise(shapes_of(record), patch_size=patch).config["strides"] == record["args"]["strides"]
    with pytest.raises(ModelError, match="but the weights were trained with"):
        recognise(shapes_of(record), strides=2, patch_size=patch)


def test_more_than_one_class_of_vmunetv2_means_no_deep_supervision() -> None:
    shapes = shapes_of(fixture("vmunetv2_tiny_ds"))
    assert recognise(shapes).config["deep_supervision"] is True
    assert "cannot be read" in recognise(shapes).notes[0]
    assert recognise(shapes, deep_supervision=False).config["deep_supervision"] is False
    assert recognise(shapes, deep_supervision=True).notes == ()
    three = {key: (3, *shape[1:]) if key.startswith("seg_outs") else shape for key, shape in shapes.items()}
    assert recognise(three).config["deep_supervision"] is False


def trainer_names(keys: list[str]) -> dict[str, str]:
    """Official key by the name that the trainers of U-Net v2's ISIC part give it."""
    return {key.replace("encoder.backbone.", "backbone.").replace("sdi_", "attention_"): key for key in keys}


def test_the_other_names_of_unetv2_are_understood() -> None:
    record = fixture("unetv2_b0_tiny")
    names = trainer_names([key for key, _, _ in record["keys"]])
    assert official_names(list(names)) == names
    strange = [*names, "deconv2_conv.weight"]  # another decoder under these names
    assert official_names(strange) == {key: key for key in strange}


REFUSED: dict[str, tuple[Shapes, str]] = {
    "part of a plain nnU-Net": ({"decoder.transpconvs.0.weight": (16, 8, 2, 2), "decoder.seg_layers.0.weight": (
        3, 8, 1, 1)}, "incomplete or changed"),
    "PVT": ({"patch_embed1.proj.weight": (64, 3, 7, 7), "head.weight": (1000, 512)}, "PVT v2 weights of an ImageNet"),
    "VMamba": ({"layers.0.blocks.0.self_attention.x_proj_weight": (4, 38, 192), "classifier.head.weight": (1000, 768)},
               "VMamba weights of an ImageNet"),
    "newer VMamba": ({"layers.0.blocks.0.op.x_proj_weight": (4, 38, 192)}, "newer VMamba"),
    "something else": ({"conv1.weight": (64, 3, 7, 7)}, r"no network that can be imported; known are U-Mamba"),
    "part of a U-Mamba": ({"decoder.upsample_layers.0.conv.weight": (8, 16, 1, 1), "mamba_layer.mamba.A_log": (
        64, 16)}, "incomplete or changed"),
    "part of a VM-UNet": ({"vmunet.patch_embed.proj.weight": (96, 3, 4, 4)}, "incomplete or changed"),
    "Mamba elsewhere": ({"decoder.transpconvs.0.weight": (16, 8, 2, 2), "decoder.mamba.A_log": (8, 16)}, "as U-Mamba"),
    "another backbone": ({"encoder.backbone.patch_embed1.proj.weight": (48, 3, 7, 7)}, "PVT v2 with 48 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_network_of_ours_is_told_apart(name: str) -> None:
    shapes, said = REFUSED[name]
    with pytest.raises(ModelError, match=said):
        recognise(shapes, strides=2, patch_size=(8, 8))
