"""VM-UNet beyond the fixtures: published sizes, options, what training needs."""

from typing import Any

import pytest
import torch

from mambaseg.nets import build
from official_keys import summary

TINY: dict[str, Any] = {"depths": (1, 1, 1, 1), "depths_decoder": (1, 1, 1, 1), "width": 8, "d_state": 2}


def test_keys_are_the_official_ones_in_order() -> None:
    assert summary("vmunet-isic") == (
        27_427_561, 222, "46b07be28a4f70895cf3af7915633b9f0bb146aaaeb97d37a38931c1a5c02fa0")


@pytest.mark.parametrize(("preset", "n_parameters"), [("vmunet-small", 44_273_833), ("vmunet", 44_273_833),
                                                      ("vmunet-synapse", 27_427_761)])
def test_parameter_counts_of_other_configurations(preset: str, n_parameters: int) -> None:
    assert summary(preset)[0] == n_parameters


def test_drop_path_is_greatest_at_the_bottom() -> None:
    network = build("vmunet", **{**TINY, "depths": (1, 2, 1, 1), "depths_decoder": (1, 1, 2, 1)}).vmunet
    down, up = ([block.drop_path.rate for layer in layers for block in layer.blocks]
                for layers in (network.layers, network.layers_up))
    assert down == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert up == pytest.approx([0.2, 0.15, 0.1, 0.05, 0])


def test_one_class_gives_probabilities_officially_and_logits_for_training() -> None:
    official, plain = build("vmunet", **TINY).eval(), build("vmunet", **TINY, activate=False).eval()
    plain.load_state_dict(official.state_dict())
    image = torch.randn(1, 3, 32, 64)
    with torch.inference_mode():
        torch.testing.assert_close(official(image), plain(image).sigmoid())
        assert build("vmunet", **TINY, n_classes=4).eval()(image).shape == (1, 4, 32, 64)


def test_a_grey_image_is_seen_as_three_equal_channels() -> None:
    network = build("vmunet", **TINY).eval()
    grey = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    network = build("vmunet", **TINY, activate=False, drop_path=0.0).train()
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_sizes_follow_the_number_of_stages_and_others_are_refused() -> None:
    network = build("vmunet", **TINY).eval()
    assert network.size_rule.fit((33, 5)) == (64, 32)
    with pytest.raises(ValueError, match="not 48 x 64; pad the image to 64 x 64"):
        network(torch.zeros(1, 3, 48, 64))
    shallow = build("vmunet", **{**TINY, "depths": (1, 1), "depths_decoder": (1, 1)}).eval()
    with torch.inference_mode():
        assert shallow(torch.zeros(1, 3, 8, 24)).shape == (1, 1, 8, 24)


def test_uneven_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="as many stages"):
        build("vmunet", depths=(2, 2), depths_decoder=(2, 2, 1))
