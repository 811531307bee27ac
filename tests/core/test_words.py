"""The words that the shell, napari and 3D Slicer share."""

import time
from typing import Any

import numpy as np
import pytest

import tiny_models
from mambaseg import Grid, Image, Progress, UserError, words
from mambaseg.models import read_model, resolve


@pytest.mark.parametrize(("seconds", "said"), [(0.42, "0.4 s"), (12.3, "12 s"), (150, "2 min"), (7500, "2 h 5 min")])
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(("n_bytes", "said"), [(38e6, "38 MB"), (6.2e8, "0.6 GB"), (2.4e10, "24.0 GB")])
def test_sizes_are_said_as_people_do(n_bytes: float, said: str) -> None:
    assert words.size(n_bytes) == said


@pytest.mark.parametrize(("update", "said"), [
    (Progress("Segmenting", 31, 120, seconds_left=6.2), "Window 31 of 120, 6 s left"),
    (Progress("Segmenting", 31, 120, "time point 2 of 5"), "Window 31 of 120, time point 2 of 5"),
    (Progress("Segmenting", 0, 120), "Segmenting"),
    (Progress("Preparing", 0, 0, "compiling, the first time only"), "Preparing, compiling, the first time only"),
    (Progress("Training", 5, 0, "loss 0.30"), "Iteration 5, loss 0.30"),
    (Progress("Copying", 2, 9), "Copying 2 of 9"),
])
def test_progress_is_a_sentence(update: Progress, said: str) -> None:
    assert words.progress_sentence(update) == said


@pytest.mark.parametrize(("axes", "spacing", "unit", "said"), [
    ("YX", (0.5, 0.5), "um", "2-D, 1 channel, 0.50 um/px"),
    ("YX", (0.065, 0.065), "um", "2-D, 1 channel, 0.065 um/px"),
    ("CYX", (1.0, 1.0), "px", "2-D, 4 channels, pixel size not known"),
    ("CZYX", (2.0, 1.25, 0.5), "mm", "3-D, 4 channels, 0.50 x 1.25 x 2.00 mm/voxel"),
    ("TYX", (1.0, 1.0), "um", "2-D, 4 time points, 1 channel, 1.00 um/px"),
])
def test_what_an_image_was_read_as(axes: str, spacing: tuple[float, ...], unit: str, said: str) -> None:
    shape = (8,) * len(spacing)
    data = np.zeros((4,) * (len(axes) - len(spacing)) + shape)
    assert words.read_as(Image(data, axes, Grid(shape, spacing, unit))) == said


def test_a_colour_picture_is_called_so() -> None:
    image = Image(np.zeros((3, 8, 8), np.uint8), "CYX", Grid((8, 8), (1, 1), "um"), is_rgb=True)
    assert words.read_as(image) == "2-D, colour, 1.00 um/px"


@pytest.mark.parametrize(("name", "said"), [
    ("nuclei-2d", "Finds nuclei in fluorescence, tissue (H&E) and brightfield pictures, in colour or grey. F1 0.88 on "
                  "66 held-out pictures. CC0 data."),
    ("hippocampus-mri", "Anterior and posterior hippocampus in T1 MRI that is cropped around one hippocampus. "
                        "Dice 0.89 on 24 held-out volumes. CC BY-SA 4.0 data."),
])
def test_the_bundled_models_in_a_line(name: str, said: str) -> None:
    assert words.model_line(read_model(resolve(name))) == said


def test_a_model_without_scores_has_a_line() -> None:
    assert words.model_line(tiny_models.tiny_model()) == "Finds nothing, quickly."


def test_what_was_found() -> None:
    assert words.found({"n_objects": 1214}, "cell") == "1,214 cells"
    assert words.found({"n_objects": 1}) == "1 object"
    assert words.found({"voxels": {"background": 75, "front": 20, "back": 5}}) == "front 20.0 %, back 5.0 %"


def test_when_the_last_stroke_was_saved() -> None:
    assert [words.saved(ago_s) for ago_s in (0.2, 12, 200)] == ["Saved just now", "Saved 12 s ago", "Saved 3 min ago"]


@pytest.mark.parametrize(("message", "loss"), [("loss 0.712, score 0.8", 0.712), ("loss 1.250", 1.25), ("", None),
                                               ("loss not known", None), ("resumed", None)])
def test_the_loss_in_a_report(message: str, loss: float | None) -> None:
    assert words.loss(Progress("Training", 3, 10, message)) == loss


@pytest.mark.parametrize(("changes", "lines"), [
    ({"better": True}, ["Before 0.71   After 0.86   on 6 objects kept aside",
                        "Of its former answers 99 % are the same (on its test input)", "It is better."]),
    ({"gain_high": -0.01, "forgetting": None}, ["Before 0.71   After 0.86   on 6 objects kept aside",
                                                "It is worse: keep the old model."]),
    ({"gain_low": 0.1, "forgetting": {"on": "its old pictures", "before": 0.91, "after": 0.85}},
     ["Before 0.71   After 0.86   on 6 objects kept aside", "On its old pictures: 0.91 → 0.85",
      "It is better here, but forgot some of what it knew: keep the old model for other pictures."]),
    ({"gain_low": 0.1, "after": {"mean": 0.86, "n_units": 1}, "forgetting": None},
     ["Before 0.71   After 0.86   on 1 object kept aside",
      "It is not surely better: keep the old model, or correct more."]),
    ({"before": {"mean": None, "n_units": 0}, "forgetting": None}, ["Nothing was kept aside."]),
])
def test_what_learning_came_to(changes: dict[str, Any], lines: list[str]) -> None:
    judgement = {"before": {"mean": 0.71, "n_units": 6}, "after": {"mean": 0.86, "n_units": 6}, "gain_low": -0.1,
                 "gain_high": 0.2, "better": False, "sentence": "Nothing was kept aside.",
                 "forgetting": {"on": "its test input", "before": 1.0, "after": 0.99}}
    assert words.lesson_lines(judgement | changes, "instances") == lines


def test_learning_says_what_it_is_at() -> None:
    training = Progress("Training", 31, 120, "loss 0.5", None, 6.0)
    assert words.learning_sentence(training, False) == "Round 31 of 120, 6 s left"
    assert words.learning_sentence(Progress("Reading", 0, 2), False) == "Reading…"
    assert words.learning_sentence(Progress("Scoring", 0, 2), True) == "Comparing before and after…"


def test_a_day_and_what_was_corrected() -> None:
    assert words.day(time.mktime((2026, 11, 20, 12, 0, 0, 0, 0, -1))) == "20 Nov"
    assert words.counted(1234, 5) == "1,234 corrected, 5 confirmed"


@pytest.mark.parametrize(("error", "said"), [
    (UserError("That is no image."), "That is no image."), (MemoryError(), words.NO_MEMORY),
    (KeyError("Z"), words.WENT_WRONG)])
def test_an_error_is_a_sentence_and_keeps_its_details(error: Exception, said: str) -> None:
    sentence, details = words.problem(error)
    assert sentence == said
    assert type(error).__name__ in details
