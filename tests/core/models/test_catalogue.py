from pathlib import Path

import pytest

import tiny_models
from mambaseg import load_model, words
from mambaseg._errors import ModelError
from mambaseg.models import bundled, catalogue, listed, resolve


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundled models."""
    for name in ("nuclei-2d", "hippocampus-mri"):
        tiny_models.save_tiny(tmp_path / "bundled" / name, name=name)
    monkeypatch.setattr(catalogue, "BUNDLED_FOLDER", tmp_path / "bundled")
    return tmp_path / "bundled"


def test_a_bundled_model_is_found_by_its_name(shelf: Path) -> None:
    assert bundled() == ["hippocampus-mri", "nuclei-2d"]
    assert load_model("nuclei-2d").folder == shelf / "nuclei-2d"


def test_a_model_is_found_by_its_folder(shelf: Path) -> None:
    folder = shelf / "nuclei-2d"
    assert load_model(folder).name == "nuclei-2d"
    assert load_model(str(folder / "model.json")).name == "nuclei-2d"


@pytest.mark.parametrize(("given", "nearest"), [("nuclei", "nuclei-2d"), ("Nuclei2D", "nuclei-2d"),
                                                ("hipocampus", "hippocampus-mri")])
def test_an_unknown_name_suggests_the_nearest(shelf: Path, given: str, nearest: str) -> None:
    with pytest.raises(ModelError, match=f'"{given}"; did you mean "{nearest}"'):
        load_model(given)


def test_a_name_near_nothing_lists_all(shelf: Path) -> None:
    with pytest.raises(ModelError, match="hippocampus-mri, nuclei-2d"):
        resolve("zzzz")


def test_a_file_is_no_model(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a file, but a model is a folder"):
        load_model(tmp_path / "weights.pth")


def test_a_folder_without_description_is_no_model(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no model\.json"):
        load_model(tmp_path / "empty")


def test_an_nnunet_folder_is_sent_to_the_import(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "plans.json").write_text("{}")
    with pytest.raises(ModelError, match="mambaseg import"):
        load_model(tmp_path)


def test_a_list_leaves_out_what_cannot_be_read(shelf: Path, tmp_path: Path) -> None:
    mine = tiny_models.save_tiny(tmp_path / "mine", name="nuclei-2d")
    (shelf / "hippocampus-mri" / "model.json").write_text("{")
    found = listed(["nuclei-2d", "hippocampus-mri", str(tmp_path / "gone"), str(mine.folder), "nuclei-2d"])
    assert list(found) == ["nuclei-2d", str(mine.folder)]
    assert words.model_titles(list(found.values())) == ["Tiny nuclei-2d (nuclei-2d)", "Tiny nuclei-2d (mine)"]
    assert words.model_titles([mine]) == ["Tiny nuclei-2d"]
