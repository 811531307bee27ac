"""Any picture goes through any network: what a network cannot take is padded, cut or resized, and undone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from mambaseg import nets
from mambaseg._errors import MissingPackageError
from mambaseg.nets.registry import NETWORKS, PLANAR, config_from_plan
from mambaseg.nets.sizes import SizeRule
from mambaseg.plan import Plan
from mambaseg.plan.fingerprint import measure
from mambaseg.plan.training import plan_for_training
from mambaseg.predict.run import predict

SHAPES = {2: (37, 53), 3: (9, 30, 41)}
OWN = {"umamba-bot", "umamba-enc", *PLANAR}
SMALL = {"vmunet": {"width": 16, "depths": [1] * 4, "depths_decoder": [1] * 4},
         "vmunetv2": {"mid_channel": 8, "depths": [1] * 4}, "unetv2": {"backbone": "b0", "channel": 8}}


def network_and_plan(name: str, ndim: int) -> tuple[torch.nn.Module, Plan]:
    """As training makes them for cases of such a size; the wide networks are narrowed."""
    image = np.random.default_rng(0).normal(size=(1, *SHAPES[ndim]))
    cases = [(image, (image[0] > 1).astype(np.uint8), (1.0,) * ndim)]
    plan = plan_for_training(measure(cases, 1, unit="px", crop=False), ndim, 1)
    for _ in range(2):  # the size that a network takes may be known only once it is built
        try:
            network = nets.build(name, **config_from_plan(plan, 1, 2, network=name) | SMALL.get(name, {}))
        except MissingPackageError as error:
            pytest.skip(str(error))
        rule = getattr(network, "size_rule", None)
        plan = dataclasses.replace(plan, patch_size=rule.fit(plan.patch_size)) if isinstance(rule, SizeRule) else plan
    return network, plan


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in OWN else [pytest.mark.slow])
                                  for name in NETWORKS])
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_network_segments_odd_sizes(name: str, ndim: int) -> None:
    if ndim == 3 and name in PLANAR:
        pytest.skip("a network of pictures")
    torch.manual_seed(0)
    network, plan = network_and_plan(name, ndim)
    image = np.random.default_rng(1).normal(100, 20, (1, *SHAPES[ndim])).astype(np.float32)
    fits = ["windows"] if ndim == 3 else ["windows", "bilinear", "antialias", "cubic"]
    for fit in fits:
        found = predict([network], image, None, dataclasses.replace(plan, fit=fit), n_classes=2)
        assert found.shape == (2, *SHAPES[ndim])
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
