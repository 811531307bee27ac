"""The lineage of models: keep, discard, go back, and nothing half-done after a crash."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tiny_models
from mambaseg import UserError, load_model
from mambaseg.learn import Lineage, Project
from mambaseg.learn.lineage import can_teach
from mambaseg.models import Model
from mambaseg.models.package import save_package

PAINTER = """
import sys
from pathlib import Path
import test_lineage
from mambaseg.learn import Project
project = Project.open(sys.argv[1])
print("ready", flush=True)
for seed in range(1, 1000):
    version = project.lineage.add(test_lineage.tuned(project.lineage, seed))
    project.lineage.keep(version.number)
    print(version.number, flush=True)
"""


def tuned(lineage: Lineage, seed: int) -> Callable[[Path], Model]:
    """Saves a model that says it came from the current one."""
    parent = lineage.current
    assert parent is not None
    model = dataclasses.replace(tiny_models.tiny_model(), parent={"name": "tiny", "checksum": parent.checksum})
    return lambda folder: save_package(folder, model, tiny_models.tiny_state(model, seed))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("MAMBASEG_DATA", str(tmp_path / "data"))
    opened = Project.create(tmp_path / "project")
    yield opened
    opened.close()


@pytest.fixture
def lineage(project: Project, tmp_path: Path) -> Lineage:
    assert project.lineage.current is None
    assert project.lineage.line() == ""
    project.lineage.start(tiny_models.save_tiny(tmp_path / "tiny"))
    return project.lineage


def test_corrections_teach_where_labels_mean_the_same() -> None:
    model = dataclasses.replace(tiny_models.tiny_model(kind="classes"), classes=("background", "liver"))
    grown = dataclasses.replace(model, classes=(*model.classes, "spleen"))
    assert can_teach(model, model)
    assert can_teach(model, grown), "results of the model before it grew"
    assert not can_teach(grown, model), "the spleen is nothing that it can find"
    assert not can_teach(model, dataclasses.replace(model, classes=("background", "kidney")))
    assert not can_teach(model, dataclasses.replace(model, kind="instances"))
    assert not can_teach(model, dataclasses.replace(model, channels=("grey",)))


def test_keep_discard_and_back_to_any_ancestor(lineage: Lineage) -> None:
    first = lineage.add(tuned(lineage, 1), {"images": ["a"], "n_corrections": 12, "sequence": 40}, {"before": 0.7})
    assert lineage.current == lineage[1], "a candidate is not current until it is kept"
    assert lineage.keep(first.number) == lineage.current
    second = lineage.add(tuned(lineage, 2), title="mine, better")
    lineage.keep(second.number)
    assert lineage.line() == f"Tiny tiny > {first.title} > mine, better"
    assert [version.number for version in lineage.chain(first.number)] == [1, 2]
    assert lineage[first.number].learned_from == {"images": ["a"], "n_corrections": 12, "sequence": 40}
    assert lineage[first.number].scores == {"before": 0.7}
    assert lineage[second.number].parent_checksum == lineage[first.number].checksum
    lineage.check()
    lineage.go_back(1)
    assert lineage.line() == "Tiny tiny"
    branch = lineage.add(tuned(lineage, 3))
    assert branch.parent == 1, "from an ancestor a second branch begins"
    with pytest.raises(UserError, match="was made from it"):
        lineage.discard(first.number)
    folder = lineage.path(lineage[second.number])
    lineage.go_back(second.number)
    assert lineage.discard(second.number) == lineage[first.number] == lineage.current
    assert not folder.exists()


def test_every_version_loads_and_is_what_was_saved(lineage: Lineage) -> None:
    version = lineage.add(tuned(lineage, 1))
    for each in lineage.versions():
        assert load_model(lineage.path(each)).checksum == each.checksum
    assert version.checksum != version.parent_checksum == lineage[1].checksum
    assert version.title == f"mine, {time.localtime().tm_mday} {time.strftime('%b')}"


def test_starting_twice_with_the_same_model_keeps_one(lineage: Lineage, tmp_path: Path) -> None:
    assert lineage.start(load_model(tmp_path / "tiny")).number == 1
    assert len(lineage.versions()) == 1
    with pytest.raises(UserError, match="begins with it"):
        lineage.discard(1)


def test_model_of_another_family_is_refused_and_leaves_nothing(lineage: Lineage) -> None:
    with pytest.raises(UserError, match="not made from a model of this project"):
        lineage.add(lambda folder: tiny_models.save_tiny(folder, seed=5))
    assert len(list(lineage.folder.iterdir())) == len(lineage.versions()) == 1


def test_save_that_fails_leaves_the_old_lineage(lineage: Lineage) -> None:
    def fail(folder: Path) -> None:
        tiny_models.save_tiny(folder)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        lineage.add(fail)
    assert len(list(lineage.folder.iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_full_disk_leaves_the_old_lineage(lineage: Lineage) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the middle of the weights."""
    import resource

    save = tuned(lineage, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*Make room"):
            lineage.add(save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(lineage.folder.iterdir())) == len(lineage.versions()) == 1
    assert lineage.keep(lineage.add(save).number).number == 2


def test_changed_package_is_noticed(lineage: Lineage) -> None:
    version = lineage.add(tuned(lineage, 1))
    tiny_models.save_tiny(lineage.path(version), seed=9)
    with pytest.raises(UserError, match="is not the model that was written down"):
        lineage.check()


@pytest.mark.slow
def test_killed_while_learning_there_is_the_old_model_or_the_whole_new_one(project: Project, lineage: Lineage) -> None:
    generator = random.Random(0)
    paths = [str(Path(__file__).parent), str(Path(tiny_models.__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", PAINTER, str(project.folder)], stdout=subprocess.PIPE, text=True,
                              env=environment) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(generator.uniform(0, 1.5))
            child.kill()
            said = [int(line) for line in child.stdout.read().split()]
        lineage.check()
        current = lineage.current
        assert current is not None
        assert current.number >= max(said, default=1)
        assert load_model(lineage.path(current)).checksum == current.checksum


def test_package_that_nobody_wrote_down_goes_when_it_is_old(lineage: Lineage) -> None:
    for name, age_s in (("new", 0), ("old", 4000)):
        (lineage.folder / name).mkdir()
        os.utime(lineage.folder / name, (time.time() - age_s,) * 2)
    lineage.add(tuned(lineage, 1))
    names = {path.name for path in lineage.folder.iterdir()}
    assert "new" in names
    assert "old" not in names
