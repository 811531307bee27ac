"""A package is described anew, or copied, whole or not at all."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny_models
from mambaseg import UserError
from mambaseg.models import Model
from mambaseg.models.folder import copy_package, write_description
from mambaseg.models.package import FILES, check_package, load_package


@pytest.fixture
def saved(tmp_path: Path) -> Model:
    return tiny_models.save_tiny(tmp_path / "tiny")


def test_a_model_that_is_described_anew_is_the_same_network(saved: Model) -> None:
    write_description(dataclasses.replace(saved, title="Another title"))
    found = load_package(saved.folder or Path())
    assert (found.title, found.checksum, check_package(found)) == ("Another title", saved.checksum, 0)
    assert sorted(path.name for path in (saved.folder or Path()).iterdir()) == sorted(FILES)


def test_a_copy_has_all_files_but_hidden_ones(saved: Model, tmp_path: Path) -> None:
    (tmp_path / "tiny" / ".left_over").write_text("half")
    (tmp_path / "tiny" / "my notes.txt").write_text("good on Tuesdays")
    copy_package(saved, tmp_path / "deep" / "copy")
    assert load_package(tmp_path / "deep" / "copy").checksum == saved.checksum
    names = sorted(path.name for path in (tmp_path / "deep" / "copy").iterdir())
    assert names == sorted([*FILES, "my notes.txt"])


def test_what_is_there_is_not_written_over(saved: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already; choose a new folder"):
        copy_package(saved, tmp_path)


@pytest.mark.parametrize("change", [write_description, lambda model: copy_package(model, "copy")])
def test_a_model_that_was_never_saved_has_nothing_to_change(saved: Model, change: Callable[[Model], None],
                                                            tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="save it with save_package first"):
        change(dataclasses.replace(saved, folder=None))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_is_told_and_leaves_no_half_copy(saved: Model, tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"copy cannot be written: File too large. Make room"):
            copy_package(saved, tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
