"""An annotation project goes on where it stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from mambaseg import UserError
from mambaseg.image import Image
from mambaseg.learn import Project, default_folder, identify, recent_projects
from mambaseg.learn.corrections import CONFIRMED, CORRECTED

IMAGE = identify(Image.from_array(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40)))


@pytest.fixture(autouse=True)
def user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAMBASEG_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def prediction() -> np.ndarray:
    labels = np.zeros((30, 40), np.int32)
    labels[5:15, 5:15] = 1
    labels[5:15, 20:30] = 2
    return labels


def test_project_reopens_where_it_stopped(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "liver", "Liver")
    assert project.saved_at_s is None
    image = project.image(IMAGE, "instances")
    layer = image.show_prediction(prediction())
    layer[15:18, 5:15] = 1
    started_s = time.time()
    image.record(layer, "brush", (slice(15, 18), slice(5, 15)))
    assert started_s <= (project.saved_at_s or 0) <= time.time()
    image.confirm(layer, (slice(0, 20), slice(18, 35)))
    project.save_settings(model="nuclei-2d", adapt=True)
    project.close()

    again = Project.open(tmp_path / "liver")
    assert (again.name, again.settings) == ("Liver", {"model": "nuclei-2d", "adapt": True})
    assert again.images() == [IMAGE]
    image = again.image(IMAGE, "instances")
    np.testing.assert_array_equal(image.labels(), layer)
    counts = image.counts()
    assert (counts.n_corrected, counts.n_confirmed) == (1, 1)
    assert again.learned_from([image]) == {"images": [IMAGE.checksum], "n_corrected": 1, "n_confirmed": 1,
                                           "sequence": 3}
    assert [stroke.tool for stroke in again.journal.strokes()] == ["prediction", "brush", "confirm"]
    again.close()


def test_other_images_count_once_something_was_corrected_there(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    other = identify(Image.from_array(np.zeros((30, 40), np.uint16)))
    seen = project.image(other, "instances")
    shown = seen.show_prediction(prediction())
    assert project.n_corrected_besides([IMAGE.checksum]) == 0
    seen.confirm(shown)
    assert project.n_corrected_besides([IMAGE.checksum]) == 1
    assert project.n_corrected_besides([IMAGE.checksum, other.checksum]) == 0
    project.close()


def test_undone_correction_is_none(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    image = project.image(IMAGE)
    layer = image.show_prediction(prediction())
    painted = layer.copy()
    painted[0, 0] = 1
    image.record(painted)
    assert image.counts().n_corrected == 1
    image.record(layer, "undo")
    assert image.counts().n_corrected == 0
    assert image.corrections().is_empty
    project.close()


def test_undo_of_painting_over_a_confirmed_region_brings_the_confirmation_back(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    image = project.image(IMAGE)
    layer = image.show_prediction(prediction())
    image.confirm(layer, (slice(0, 10),))
    painted = layer.copy()
    painted[3, 3:6] = 1
    image.record(painted)
    assert image.counts().n_overruled == 3
    assert image.corrections().state[3, 4] == CORRECTED
    image.record(layer, "undo")
    assert image.counts().n_overruled == 0
    assert (image.corrections().state[:10] == CONFIRMED).all()
    project.close()


def test_unlocked_voxels_follow_the_next_prediction(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    image = project.image(IMAGE)
    layer = image.show_prediction(np.zeros((30, 40), np.int32))
    layer[2, 2:6] = 1
    image.record(layer)
    image.unlock(layer, (slice(2, 3), slice(2, 4)))
    np.testing.assert_array_equal(image.labels(), layer)
    assert image.show_prediction(np.full((30, 40), 3))[2, 1:7].tolist() == [3, 3, 3, 1, 1, 3]
    assert image.show_prediction(np.full((30, 40), 4), keep_locked=False).tolist() == [[4] * 40] * 30
    assert image.corrections().is_empty
    project.close()


def test_corrections_on_a_layer_of_another_shape_are_refused_in_words(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "p")
    image = project.image(IMAGE)
    other = np.zeros((30, 41), np.int32)
    for call in (image.record, image.confirm, image.unlock):
        with pytest.raises(UserError, match="30 x 41 voxels, but the image that they correct is 30 x 40"):
            call(other)
    with pytest.raises(UserError, match="30 x 41"):
        image.show_prediction(other)
    with pytest.raises(UserError, match="one truth value"):
        image.confirm(np.zeros((30, 40), np.int32), mask=np.ones((3, 3), bool))
    assert project.journal.strokes() == []
    project.close()


def test_recent_projects_last_opened_first_and_only_those_still_there(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        Project.create(tmp_path / name).close()
    Project.open(tmp_path / "one").close()
    (tmp_path / "two" / "project.json").unlink()
    assert [project.name for project in recent_projects()] == ["one", "three"]
    assert recent_projects()[0].folder == tmp_path / "one"


def test_broken_list_of_recent_projects_is_no_obstacle(tmp_path: Path, user_data: Path) -> None:
    user_data.mkdir()
    for text in ("not json", '{"a": 1}', '[1, {"folder": "x"}, {"folder": 3, "name": 4, "opened_s": "x"}]'):
        (user_data / "recent.json").write_text(text)
        assert recent_projects() == []
    Project.create(tmp_path / "p").close()
    assert [project.name for project in recent_projects()] == ["p"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": 1, "name": 3, "settings": {}}', "\xff"])
def test_folder_that_is_no_project_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "project.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="no annotation project"):
        Project.open(tmp_path)
    with pytest.raises(UserError, match="is not empty"):
        Project.create(tmp_path)


def test_project_of_a_later_version_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "project.json").write_text(json.dumps({"form": 2, "name": "x", "settings": {}}))
    with pytest.raises(UserError, match="update mambaseg"):
        Project.open(tmp_path)


def test_project_of_an_image_lies_among_the_users_data_and_under_a_harmless_name(user_data: Path) -> None:
    odd = Image(np.zeros((4, 5)), "YX", Image.from_array(np.zeros((4, 5))).grid, source="/x/../a b:c?.tif")
    folder = default_folder(identify(odd))
    assert folder.parent == user_data / "projects"
    assert folder.name.startswith("abc-")
    assert default_folder(IMAGE).name.startswith("image-")
