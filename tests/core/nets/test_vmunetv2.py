"""VM-UNetV2 beyond the fixtures: published sizes, deep supervision, what training needs."""

from typing import Any

import pytest
import torch

from mambaseg.nets import build
from official_keys import summary

TINY: dict[str, Any] = {"depths": (1, 1, 1, 1), "mid_channel": 8, "d_state": 2}


def test_keys_are_the_official_ones_in_order() -> None:
    expected = 22_770_934, 290, "e098c83c542b02e241011032b8abacaf8036a25b61d5cbc4560ef95b761ee08d"
    assert summary("vmunetv2-2292") == expected
    assert summary("vmunetv2-2292", deep_supervision=False) == expected


def test_depths_of_the_paper_differ_in_the_third_stage_alone() -> None:
    few, some, many = (summary(f"vmunetv2-2{2}{n}2")[0] for n in (2, 9, 27))
    assert many - some == (some - few) * 18 // 7


def test_deep_supervision_adds_the_enlarged_half_size_logits() -> None:
    torch.manual_seed(0)
    deep, plain = (build("vmunetv2", **TINY, deep_supervision=on, activate=False).eval() for on in (True, False))
    plain.load_state_dict(deep.state_dict())
    halves = []
    deep.deconv6.register_forward_hook(lambda _, inputs, output: halves.append((inputs[0], output)))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        fused, logits = deep(image), plain(image)
    (half, enlarged), = halves
    assert half.shape == (1, 1, 32, 32)
    torch.testing.assert_close(fused, logits + enlarged)


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_one_class_gives_probabilities_officially(deep_supervision: bool) -> None:
    official, plain = (build("vmunetv2", **TINY, deep_supervision=deep_supervision, activate=activate).eval()
                       for activate in (True, False))
    plain.load_state_dict(official.state_dict())
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(official(image), plain(image).sigmoid())


def test_deep_supervision_of_several_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="one class, not 3"):
        build("vmunetv2", **TINY, n_classes=3)
    network = build("vmunetv2", **TINY, n_classes=3, deep_supervision=False).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_exactly_the_weights_that_are_dead_upstream_do_not_learn() -> None:
    torch.manual_seed(0)
    network = build("vmunetv2", **TINY, activate=False).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    dead = {".".join(name.split(".")[:3 if name.startswith("vmunet") else 2])
            for name, p in network.named_parameters() if p.grad is None}
    assert dead == {"vmunet.layers.3", "deconv5.weight", "seg_outs.0", "seg_outs.1"}


def test_only_squares_are_taken() -> None:
    network = build("vmunetv2", **TINY).eval()
    with pytest.raises(ValueError, match="not 64 x 96; pad the image to 96 x 96"):
        network(torch.zeros(1, 3, 64, 96))


def test_four_stages_are_needed() -> None:
    with pytest.raises(ValueError, match="four stages"):
        build("vmunetv2", depths=(2, 2, 2))
