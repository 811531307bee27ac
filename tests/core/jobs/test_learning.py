"""Learning in the worker: a session lives from stroke to stroke, and a fine-tuned model comes back judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mambaseg import Image, UserError, jobs
from mambaseg.jobs.tasks import TASKS
from mambaseg.models import load_model
from mambaseg.progress import Progress
from tiny_models import save_tiny

SHAPE = (40, 36)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with an image and some corrections of it."""
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    corrections = np.zeros(SHAPE, np.int32)
    corrections[:10], corrections[20:30] = 1, 3
    jobs.write_image(tmp_path, Image.from_array(image))
    jobs.write_image(tmp_path, Image.from_array(corrections), "corrections")
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_tiny(tmp_path / "tiny", kind="classes", channels=("grey",), name="tiny").folder)


def do(task: str, folder: Path, **request: Any) -> dict[str, Any]:
    return TASKS[task](request, folder, lambda update: None)


def test_a_session_goes_from_view_to_stroke_to_adapter(folder: Path, model: str) -> None:
    first = do("adapt", folder, model=model, session="a", image="image", roi=[[0, 32], [4, 36]])
    before = np.load(folder / first["labels"])
    assert before.shape == (32, 32)
    do("adapt", folder, model=model, session="a", corrections="corrections")
    after = np.load(folder / first["labels"])
    wanted = slice(20, 30)
    assert (after[wanted] == 2).mean() > (before[wanted] == 2).mean()
    saved = do("adapt", folder, model=model, session="a", save={"name": "mine", "folder": str(folder / "with")})
    assert [adapter.name for adapter in load_model(saved["model"]).adapters] == ["mine"]
    do("adapt", folder, model=model, session="a", forget=True)
    np.testing.assert_array_equal(np.load(folder / first["labels"]), before)


def test_a_stroke_without_a_view_is_told(folder: Path, model: str) -> None:
    with pytest.raises(UserError, match="show the image first"):
        do("adapt", folder, model=model, session="nobody", corrections="corrections")


def test_a_switched_adapter_reaches_a_worker_that_has_the_model_loaded(folder: Path, model: str) -> None:
    plain = np.load(folder / do("segment", folder, model=model, image="image")["labels"])
    do("adapt", folder, model=model, session="b", image="image", corrections="corrections", save={"name": "mine"})
    adapted = np.load(folder / do("segment", folder, model=model, image="image")["labels"])
    assert not np.array_equal(plain, adapted)


def test_finetune_saves_a_judged_model(folder: Path, model: str) -> None:
    stages: list[str] = []

    def listen(update: Progress) -> None:
        stages.append(update.stage)

    request = {"model": model, "output": str(folder / "new"), "iterations": 1, "minutes": 5,
               "examples": [{"image": "image", "corrections": "corrections"}]}
    found = TASKS["finetune"](request, folder, listen)
    assert "Training" in stages
    assert isinstance(found["judgement"]["better"], bool)
    assert found["judgement"]["sentence"]
    assert load_model(found["model"]).parent == {"name": "tiny", "checksum": load_model(model).checksum}
