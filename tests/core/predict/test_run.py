import weakref

import numpy as np
import pytest
import torch
from torch import nn

from mambaseg._errors import Cancelled, ImageError, ModelError, UserError
from mambaseg.machine import choose_device, choose_precision
from mambaseg.plan import Plan
from mambaseg.predict.run import predict, predict_logits


def plan(patch, **changes) -> Plan:
    ndim = len(patch)
    values = {"ndim": ndim, "patch_size": tuple(patch), "batch_size": 2, "features_per_stage": (4,),
              "kernel_sizes": ((3,) * ndim,), "strides": ((1,) * ndim,), "n_blocks_encoder": (1,),
              "n_blocks_decoder": (), "transpose": tuple(range(ndim)), "normalisation": ("zscore",),
              "crop_to_nonzero": False}
    return Plan(**(values | changes))


def network(ndim, n_classes=3, channels=1, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    convolution = nn.Conv2d if ndim == 2 else nn.Conv3d
    return nn.Sequential(convolution(channels, 4, 3, padding=1), nn.LeakyReLU(), convolution(4, n_classes, 1))


def frame(*shape, seed=0):
    return np.random.default_rng(seed).normal(100, 20, size=shape).astype(np.float32)


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x):
        return self.logits.reshape(1, -1, *[1] * (x.ndim - 2)).expand(1, -1, *x.shape[2:])


@pytest.mark.parametrize("patch", [(16, 24), (8, 12, 10)])
def test_one_window_gives_what_the_network_gives(patch):
    net, recipe = network(len(patch)), plan(patch)
    image = frame(1, *patch)
    normal = torch.from_numpy((image - image.mean()) / image.std())[None]
    with torch.no_grad():
        direct = torch.softmax(net(normal), dim=1)[0]
    np.testing.assert_allclose(predict([net], image, None, recipe, n_classes=3), direct, atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), [((40, 21), (16, 16)), ((5, 3), (16, 16)), ((20, 9, 30), (8, 12, 16)),
                                              ((3, 20, 9), (8, 8)), ((1, 1), (4, 4))])
def test_a_constant_network_gives_a_constant_image(shape, patch):
    result = predict([Constant([0.0, 1.0, -1.0])], frame(1, *shape), None, plan(patch), n_classes=3)
    assert result.shape == (3, *shape)
    assert result.dtype == np.float32
    wanted = torch.softmax(torch.tensor([0.0, 1.0, -1.0]), 0).numpy()
    np.testing.assert_allclose(result.reshape(3, -1), np.broadcast_to(wanted[:, None], (3, result[0].size)), atol=1e-6)


def test_a_small_image_is_padded_with_zeros_by_the_odd_voxel_more_at_the_end():
    seen = []

    class Spy(Constant):
        def forward(self, x):
            seen.append(x[0, 0].clone())
            return super().forward(x)

    predict([Spy([0.0])], np.full((1, 5, 4), 7, np.uint8), None, plan((8, 4), normalisation=("nonorm",)), n_classes=1)
    assert seen[0][:, 0].tolist() == [0, 7, 7, 7, 7, 7, 0, 0]


def test_a_volume_goes_slice_by_slice_through_a_picture_network():
    net, volume = network(2), frame(1, 4, 20, 18)
    recipe = plan((16, 16), normalisation=("nonorm",))
    result = predict([net], volume, None, recipe, n_classes=3)
    for z in range(4):
        alone = predict([net], volume[:, z], None, recipe, n_classes=3)
        np.testing.assert_array_equal(result[:, z], alone)


def test_mirroring_averages_all_flips():
    net, array = network(2), frame(1, 12, 10) / 100
    logits = predict_logits([net], array, plan((12, 10)), n_classes=3, mirror_axes=(0, 1))
    x = torch.from_numpy(array)[None]
    with torch.no_grad():
        flips = [net(x.flip(dims)).flip(dims) for dims in ((), (2,), (3,), (2, 3))]
    np.testing.assert_allclose(logits, torch.stack(flips).mean(0)[0], atol=1e-5)


def test_an_ensemble_averages_logits():
    nets, array = [network(2, seed=1), network(2, seed=2)], frame(1, 20, 20) / 100
    both = predict_logits(nets, array, plan((12, 12)), n_classes=3)
    single = [predict_logits([net], array, plan((12, 12)), n_classes=3) for net in nets]
    np.testing.assert_allclose(both, sum(single) / 2, atol=1e-5)


def test_of_deep_supervision_the_full_size_counts():
    class Deep(Constant):
        def forward(self, x):
            return [super().forward(x), super().forward(x[..., ::2, ::2]) * 100]

    result = predict([Deep([0.0, 0.0])], frame(1, 20, 20), None, plan((8, 8)), n_classes=2)
    np.testing.assert_allclose(result, 0.5)


def test_regions_are_independent_and_empty_outside_the_crop():
    image = np.zeros((1, 10, 10), np.float32)
    image[0, 2:7, 3:9] = frame(5, 6)
    recipe = plan((8, 8), crop_to_nonzero=True)
    regions = predict([Constant([0.0, 3.0])], image, None, recipe, n_classes=2, kind="regions")
    np.testing.assert_allclose(regions[:, 4, 4], [0.5, 1 / (1 + np.exp(-3))], atol=1e-6)
    assert regions[:, 0, 0].tolist() == [0, 0]
    classes = predict([Constant([0.0, 3.0])], image, None, recipe, n_classes=2)
    assert classes[:, 0, 0].tolist() == [1, 0]


@pytest.mark.parametrize(("shape", "patch", "spacing", "changes"), [
    ((60, 50), (16, 16), None, {}),
    ((30, 40, 26), (8, 8, 8), (1.0, 1.0, 1.0), {"spacing": (1.3, 0.9, 1.1), "transpose": (2, 0, 1)}),
    ((9, 40, 26), (8, 8, 8), (5.0, 1.0, 1.0), {"spacing": (2.0, 1.6, 1.6), "crop_to_nonzero": True}),
])
def test_a_box_is_predicted_as_in_the_whole(shape, patch, spacing, changes):
    image = frame(1, *shape)
    image[:, 0] = image[..., -3:] = 0  # a rim to crop
    net, recipe = network(len(patch)), plan(patch, **changes)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    whole = predict([net], image, spacing, recipe, n_classes=3)
    n_whole = len(calls)
    box = (slice(2, 5), (10, 24), slice(7, -8))[: len(shape)]
    part = predict([net], image, spacing, recipe, n_classes=3, roi=box)
    inside = (slice(None), *(slice(*b) if isinstance(b, tuple) else b for b in box))
    np.testing.assert_array_equal(part[inside], whole[inside])
    assert len(calls) - n_whole < n_whole
    part[inside] = 0
    assert part.sum() == part[0].sum() == part[0].size - part[inside][0].size


@pytest.mark.parametrize(("roi", "says"), [
    (((0, 4),), "1 axes"), (((4, 4), (0, 9)), "no voxel"), (((90, 99), (0, 9)), "no voxel"),
])
def test_a_box_beside_the_image_is_refused(roi, says):
    with pytest.raises(ImageError, match=says):
        predict([Constant([0.0])], frame(1, 20, 20), None, plan((8, 8)), n_classes=1, roi=roi)


def test_a_box_in_the_cropped_rim_is_background():
    image = np.zeros((1, 20, 20), np.float32)
    image[0, 10:, 10:] = frame(10, 10)
    net = Constant([0.0, 9.0])
    result = predict([net], image, None, plan((8, 8), crop_to_nonzero=True), n_classes=2, roi=((0, 5), (0, 5)))
    assert (result[0] == 1).all()


# --- while it runs ----------------------------------------------------------------------------------------------------

def test_progress_counts_windows_and_cancel_stops_after_the_window_in_hand():
    net, updates, calls = network(2), [], []
    net.register_forward_hook(lambda *_: calls.append(1))

    def cancel(update):
        updates.append((update.stage, update.done, update.total))
        if update.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        predict([net], frame(1, 40, 40), None, plan((16, 16)), n_classes=3, progress=cancel)
    assert updates == [("Segmenting", done, 16) for done in range(4)]
    assert len(calls) == 3


def test_the_network_comes_back_in_the_mode_it_had_also_after_cancel():
    net, modes = network(2).train(), []
    net[0].eval()  # as a frozen layer of a network in training
    net.register_forward_hook(lambda module, *_: modes.append(module.training))

    def cancel(update):
        if update.done:
            raise Cancelled

    with pytest.raises(Cancelled):
        predict([net], frame(1, 40, 40), None, plan((16, 16)), n_classes=3, progress=cancel)
    assert modes == [False]
    assert net.training
    assert not net[0].training


def test_no_more_than_one_window_is_alive():
    alive, most = weakref.WeakSet(), []

    class Spy(Constant):
        def forward(self, x):
            most.append(len(alive))
            output = super().forward(x).clone()
            alive.add(output)
            alive.add(x)
            return output

    predict([Spy([0.0, 1.0])], frame(1, 24, 24, 24), None, plan((8, 8, 8)), n_classes=2, mirror_axes=(0, 1))
    assert len(most) == 125 * 4
    assert max(most) <= 4  # input and output of the pass before, their flips


def test_windows_near_the_focus_come_first_and_change_nothing():
    net, order = network(2), []
    image = frame(1, 64, 64)
    plain = predict([net], image, None, plan((16, 16)), n_classes=3)
    net.register_forward_hook(lambda _, inputs, __: order.append(inputs[0].clone()))
    result = predict([net], image, None, plan((16, 16), normalisation=("nonorm",)), n_classes=3, focus=(60, 60))
    np.testing.assert_array_equal(order[0][0, 0], image[0, 48:, 48:])
    focused = predict([net], image, None, plan((16, 16)), n_classes=3, focus=(60, 60))
    np.testing.assert_allclose(focused, plain, atol=1e-6)
    assert result.shape == plain.shape


# --- bad input and settings -------------------------------------------------------------------------------------------

def test_bfloat16_is_near_float32():
    net, image = network(2), frame(1, 40, 40)
    full = predict([net], image, None, plan((16, 16)), n_classes=3, precision="float32")
    half = predict([net], image, None, plan((16, 16)), n_classes=3, precision="bfloat16")
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.02


def test_a_network_with_other_classes_or_broken_weights_is_refused():
    with pytest.raises(ModelError, match="gives 2 outputs a voxel, but the model names 3"):
        predict([Constant([0.0, 1.0])], frame(1, 9, 9), None, plan((8, 8)), n_classes=3)
    with pytest.raises(ModelError, match="not finite"):
        predict([Constant([0.0, float("nan")])], frame(1, 9, 9), None, plan((8, 8)), n_classes=2)


def test_devices_and_precisions_are_named():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(UserError, match="no device 'toaster'"):
        choose_device("toaster")
    with pytest.raises(UserError, match="not available"):
        choose_device("cuda:99")
    with pytest.raises(UserError, match="float32 or bfloat16"):
        choose_precision("float8", torch.device("cpu"))
