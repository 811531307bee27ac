"""The simulated user corrects what it means to, whatever numbers the answers use."""

from __future__ import annotations

import numpy as np

from mambaseg.learn.simulate import correct_objects


def test_a_new_answer_with_the_number_of_a_corrected_object_stays_another_object() -> None:
    truth = np.zeros((40, 60), np.int32)
    truth[4:14, 4:14], truth[20:30, 40:50] = 1, 2
    corrections, labels = correct_objects(truth, np.zeros_like(truth), 1)
    number = int(labels.max())
    elsewhere = np.zeros_like(truth)
    elsewhere[34:38, 4:10] = number
    _, further = correct_objects(truth, elsewhere, 1, already=corrections)
    assert not (further[34:38, 4:10] == number).any()
    assert len(np.unique(further)) == 4  # background, two corrected objects, and the odd one
