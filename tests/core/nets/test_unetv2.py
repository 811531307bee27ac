"""U-Net v2 beyond the fixtures: published sizes, deep supervision, the backbone's sizes."""

import math

import pytest
import torch

from mambaseg.nets import build
from mambaseg.nets.pvt import PVT_SIZES, PVTv2
from official_keys import summary


def test_keys_are_the_official_ones_in_order() -> None:
    assert summary("unetv2-b2", n_classes=2) == (
        25_145_168, 412, "dd12f8e6a04f6e995c9ea3906b0d291a1187025772e1ea1a7f247f811edabb49")
    assert summary("unetv2-polyp")[0] == summary("unetv2")[0] == 25_145_036


@pytest.mark.parametrize(("size", "millions"), [("b0", 3.7), ("b1", 14.0), ("b2", 25.4), ("b3", 45.2), ("b4", 62.6),
                                                ("b5", 82.0)])
def test_backbones_are_as_large_as_their_paper_says(size: str, millions: float) -> None:
    with torch.device("meta"):
        backbone = PVTv2(PVT_SIZES[size])
    n_parameters = sum(p.numel() for p in backbone.parameters())
    n_parameters += (PVT_SIZES[size].widths[-1] + 1) * 1000  # the paper counts the classifier of ImageNet
    assert round(n_parameters / 1e6, 1) == millions


def test_deep_supervision_adds_coarser_logits_and_changes_nothing_else() -> None:
    deep, two, plain = (build("unetv2", backbone="b0", channel=8, n_classes=2, **more).eval()
                        for more in ({}, {"n_outputs": 2}, {"deep_supervision": False}))
    two.load_state_dict(deep.state_dict())
    plain.load_state_dict(deep.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        outputs = deep(image)
        assert [tuple(o.shape) for o in outputs] == [(1, 2, side, side) for side in (64, 32, 16, 8)]
        torch.testing.assert_close(two(image), outputs[:2])
        torch.testing.assert_close(plain(image), outputs[0])


def test_all_but_the_unused_layer_learn() -> None:
    torch.manual_seed(0)
    network = build("unetv2", backbone="b0", channel=8).train()
    torch.stack([logits.square().mean() for logits in network(torch.randn(2, 1, 64, 64))]).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == ["deconv5.weight"]


def test_drop_path_acts_in_training_only() -> None:
    backbone = PVTv2(PVT_SIZES["b0"])
    rates = [block.drop_path.rate for i in range(1, 5) for block in backbone.get_submodule(f"block{i}")]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])
    network = build("unetv2", backbone="b0", drop_path=0.9, deep_supervision=False)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(image), network(image))
        torch.manual_seed(0)
        first = network.train()(image)
        assert not torch.equal(first, network(image))


def test_the_backbone_starts_as_its_authors_say() -> None:
    torch.manual_seed(0)
    stage = PVTv2(PVT_SIZES["b0"]).get_submodule("block4.0")
    assert stage.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    depthwise = stage.mlp.dwconv.dwconv  # nine weights leave each input
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.05)
    assert not depthwise.bias.any()


@pytest.mark.parametrize(("wrong", "part"), [({"backbone": "b6"}, "b0, b1"), ({"n_outputs": 5}, "1 to 4")])
def test_wrong_options_are_refused(wrong: dict[str, object], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        build("unetv2", **wrong)


def test_only_squares_are_taken() -> None:
    network = build("unetv2", backbone="b0", channel=8).eval()
    with pytest.raises(ValueError, match="not 64 x 40; pad the image to 64 x 64"):
        network(torch.zeros(1, 3, 64, 40))
