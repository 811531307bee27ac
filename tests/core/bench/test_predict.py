import re

import numpy as np
import torch

from mambaseg.bench import predict
from mambaseg.nets import build
from mambaseg.nets.registry import config_from_plan
from mambaseg.plan import Plan

TINY = Plan(ndim=2, patch_size=(16, 16), batch_size=1, features_per_stage=(4, 8), kernel_sizes=((3, 3),) * 2,
            strides=((1, 1), (2, 2)), n_blocks_encoder=(1, 1), n_blocks_decoder=(1,), transpose=(0, 1))


def test_shares_are_of_the_whole_and_the_scan_is_found():
    network = build("umamba-bot", **config_from_plan(TINY, 1, 3)).eval()
    n_threads = torch.get_num_threads()
    subject = predict._Subject("tiny", "umamba-bot", TINY)
    figures = predict._measure(subject, network, np.zeros((1, 16, 16), np.float32), n_rounds=1)
    shares = [value for name, value in figures.items() if name.endswith("_percent")]
    assert len(shares) == 4
    assert abs(sum(shares) - 100) < 5
    assert figures["tiny_scan_percent"] > 0
    assert figures["tiny_convolutions_percent"] > 0
    assert all(re.fullmatch(r"[a-z0-9_]+_(s|percent|ratio)", name) for name in figures)
    assert torch.get_num_threads() == n_threads


def test_quick_windows_are_small_and_names_are_distinct():
    for quick in (True, False):
        labels = [subject.label for subject in predict._subjects(quick)]
        assert len(set(labels)) == len(labels)
    assert max(np.prod(subject.plan.patch_size) for subject in predict._subjects(quick=True)) < 50_000
