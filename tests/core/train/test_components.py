import dataclasses
import json

import numpy as np
import pytest

import tiny_models
from mambaseg.models import Model
from mambaseg.segmentation.run import labels_from
from mambaseg.train.components import LEAST_CASES, largest_components


def case(speck: int = 0, second: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A truth of two organs; a prediction with a speck of a class far away, where the truth may have a second piece."""
    truth = np.zeros((6, 30, 30), np.uint8)
    truth[1:5, 4:12, 4:12], truth[1:5, 12:20, 4:12] = 1, 2
    prediction = truth.copy()
    prediction[2, 4:6, 4:6] = 0
    if speck:
        prediction[4, 26:28, 26:28] = speck
    if second:
        truth[4, 26:28, 26:28] = speck
    return truth, prediction


def many(*cases: tuple[np.ndarray, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    repeated = (cases * LEAST_CASES)[:LEAST_CASES]
    return [truth for truth, _ in repeated], [prediction for _, prediction in repeated]


def test_specks_away_from_all_organs_are_dropped_for_all_at_once() -> None:
    assert largest_components(*many(case(1), case(2)), 3) == ((1, 2),)


def test_a_class_of_its_own_where_another_has_two_pieces() -> None:
    truths, predictions = many(case(1), case(2, second=True))
    assert largest_components(truths, predictions, 3) == ((1,),)


def test_nothing_where_it_does_not_help() -> None:
    assert largest_components(*many(case()), 3) == ()
    assert largest_components(*many(case(1, second=True), case(2, second=True)), 3) == ()


def test_a_few_cases_prove_nothing() -> None:
    truths, predictions = many(case(1))
    assert largest_components(truths[1:], predictions[1:], 3) == ()


def test_ignored_specks_give_no_reason() -> None:
    truths, predictions = many(case(1))
    for truth in truths:
        truth[4, 26:28, 26:28] = 9
    assert largest_components(truths, predictions, 3, ignore_label=9) == ()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_one_class_and_classes_that_never_occur(n_classes: int) -> None:
    truths, predictions = many(case(1))
    merged = [np.minimum(labels, 1) for labels in truths], [np.minimum(labels, 1) for labels in predictions]
    assert largest_components(*merged, n_classes) == (tuple(range(1, n_classes)),)


def test_a_model_that_says_so_keeps_the_largest_piece() -> None:
    plain = dataclasses.replace(tiny_models.tiny_model(kind="classes"), checksum="0" * 64)
    assert "keep_largest" not in plain.to_json()
    model = dataclasses.replace(plain, keep_largest=((1,),))
    again = Model.from_json(json.loads(json.dumps(model.to_json())), "model.json")
    assert again.keep_largest == ((1,),)
    _, prediction = case(1)
    probabilities = np.stack([prediction == number for number in range(3)]).astype(np.float32)
    labels = labels_from(probabilities, again, None)
    assert not (labels[:, 20:] == 1).any()
    np.testing.assert_array_equal(labels[:, :20], prediction[:, :20])
