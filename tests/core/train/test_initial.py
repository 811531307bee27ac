"""ImageNet weights, in files as their authors write them, as the start of an encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import mambaseg
import official
from mambaseg import nets
from mambaseg._errors import ModelError, UserError
from mambaseg.models._weights import sha256
from mambaseg.nets.pvt import PVT_SIZES, PVTv2
from mambaseg.nets.vssm import VSSEncoder
from mambaseg.train.initial import load_initial

SMALL = {"depths": [1, 1, 2, 1], "depths_decoder": [1, 3, 1, 1], "width": 16, "d_state": 2, "n_classes": 2,
         "activate": False}


def by_rule(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Weights by the fixtures' rule under the network's names."""
    return {key: torch.from_numpy(official.detw.tensor(key, value.shape))
            for key, value in network.state_dict().items()}


def vmamba(path: Path, depths: tuple[int, ...] = (1, 1, 3, 1), width: int = 16, **changes: Any) -> Path:
    """A VMamba classifier as its authors publish it: under `model`, with a head."""
    weights = by_rule(VSSEncoder(3, depths, width, 2, 0.0))
    head = {"norm.weight": torch.ones(8 * width), "norm.bias": torch.zeros(8 * width),
            "head.weight": torch.zeros(1000, 8 * width), "head.bias": torch.zeros(1000)}
    torch.save({"model": weights | head | changes, "epoch": 238, "optimizer": {"state": {}}}, path)
    return path


def pvt(path: Path, size: str = "b0") -> Path:
    weights = by_rule(PVTv2(PVT_SIZES[size]))
    torch.save(weights | {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}, path)
    return path


def test_vmamba_fills_the_encoder_and_mirrored_the_decoder(tmp_path: Path) -> None:
    network = nets.build("vmunet", **SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = vmamba(tmp_path / "vmamba.pth")
    record = load_initial("vmunet", network, path)
    given, after = torch.load(path, weights_only=True)["model"], network.state_dict()
    for key, value in after.items():
        name = key.removeprefix("vmunet.")
        if name.startswith(("patch_embed", "layers.")):
            assert torch.equal(value, given[name]), key
    for stage, mirror in enumerate((3, 2, 1, 0)):
        name = f"layers.{stage}.blocks.0.self_attention.in_proj.weight"
        assert torch.equal(after[f"vmunet.layers_up.{mirror}.blocks.0.self_attention.in_proj.weight"], given[name])
    assert torch.equal(after["vmunet.layers_up.1.blocks.2.ln_1.weight"], given["layers.2.blocks.2.ln_1.weight"])
    for key in ("vmunet.final_conv.weight", "vmunet.layers_up.1.upsample.expand.weight"):
        assert torch.equal(after[key], before[key])
    assert record == {"file": "vmamba.pth", "sha256": sha256(path), "weights": "VMamba", "at_random": [],
                      "not_used": ["layers.2.blocks.2", "norm.weight", "norm.bias", "head.weight", "head.bias"]}


def test_blocks_of_the_decoder_without_a_counterpart_are_named(tmp_path: Path) -> None:
    network = nets.build("vmunet", **SMALL)
    record = load_initial("vmunet", network, vmamba(tmp_path / "vmamba.pth", depths=(1, 1, 2, 1)))
    assert record["at_random"] == ["vmunet.layers_up.1.blocks.2"]


def test_vmunetv2_takes_the_encoder_alone(tmp_path: Path) -> None:
    network = nets.build("vmunetv2", n_classes=2, depths=[1, 1, 2, 1], mid_channel=8, d_state=2,
                         deep_supervision=False, activate=False)
    path = vmamba(tmp_path / "vmamba.pth")
    record = load_initial("vmunetv2", network, path)
    given = torch.load(path, weights_only=True)["model"]
    state = network.state_dict()
    assert torch.equal(state["vmunet.layers.3.blocks.0.ln_1.weight"], given["layers.3.blocks.0.ln_1.weight"])
    assert (record["at_random"], record["not_used"][0]) == ([], "layers.2.blocks.2")


def test_pvt_fills_the_backbone_of_unetv2(tmp_path: Path) -> None:
    network = nets.build("unetv2", n_classes=2, backbone="b0")
    path = pvt(tmp_path / "pvt_v2_b0.pth")
    record = load_initial("unetv2", network, path)
    given = torch.load(path, weights_only=True)
    backbone = network.get_submodule("encoder.backbone").state_dict()
    assert all(torch.equal(value, given[key]) for key, value in backbone.items())
    assert record["not_used"] == ["head.weight", "head.bias"]


def test_what_does_not_fit_is_named_key_by_key_and_nothing_is_changed(tmp_path: Path) -> None:
    network = nets.build("vmunet", **SMALL)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = vmamba(tmp_path / "vmamba.pth", depths=(1, 1, 1, 1), **{"patch_embed.norm.bias": torch.zeros(7)})
    with pytest.raises(ModelError, match=r"vmamba\.pth does not fit the encoder of vmunet") as caught:
        load_initial("vmunet", network, path)
    assert "vmunet.patch_embed.norm.bias is (7,), expected (16,)" in str(caught.value)
    missing = [key for key in before if key.startswith("vmunet.layers.2.blocks.1.")]
    assert all(f"{key.removeprefix('vmunet.')} is missing" in str(caught.value) for key in missing)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize(("network", "make", "said"), [
    ("vmunet", pvt, "does not hold the weights of VMamba"), ("unetv2", vmamba, r"does not hold the weights of PVT v2")])
def test_weights_of_the_other_kind_are_refused(network: str, make: Any, said: str, tmp_path: Path) -> None:
    config = SMALL if network == "vmunet" else {"n_classes": 2, "backbone": "b0"}
    with pytest.raises(ModelError, match=said):
        load_initial(network, nets.build(network, **config), make(tmp_path / "weights.pth"))


def test_a_hostile_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(ModelError, match=r'asks for "posix\.system"'):
        load_initial("vmunet", nets.build("vmunet", **SMALL), path)


def test_a_network_without_such_a_start_says_so_before_any_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"umamba-bot cannot start from ImageNet weights; .* vmunetv2 or unetv2"):
        mambaseg.train(tmp_path / "none", output=tmp_path / "model", iterations=1, initial=tmp_path / "w.pth")


@pytest.mark.slow
def test_training_starts_from_them_and_the_model_remembers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / "set" / part).mkdir(parents=True)
        for index in range(3):
            values = random.integers(0, 2, (32, 32)).astype(np.uint8) * (1 if part == "labels" else 200)
            tifffile.imwrite(tmp_path / "set" / part / f"case{index}.tif", values)
    path = pvt(tmp_path / "pvt_v2_b2.pth", "b2")
    model = mambaseg.train(tmp_path / "set", "unetv2", tmp_path / "model", iterations=1, instances=False, initial=path,
                           rate=1e-9)
    assert model.training["initial"]["file"] == "pvt_v2_b2.pth"
    given = torch.load(path, weights_only=True)
    trained = model.build().get_submodule("encoder.backbone").state_dict()
    assert all(torch.allclose(value, given[key], atol=1e-6) for key, value in trained.items())
