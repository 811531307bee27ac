"""What every test shares: quiet threads, a picture backend without a window, and the data beside the checkout."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch and numba are imported anywhere, also in child processes: two threads are what every machine has, and
# results and run times stay comparable.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MKL_NUM_THREADS", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# No deadline: a busy machine is not a fault. Derandomised: the same checkout gets the same verdict.
settings.register_profile("mambaseg", deadline=None, derandomize=True)
settings.load_profile("mambaseg")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets and fixtures beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder of data sets and fixtures, shared/, beside the checkout")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Folders of tiny models by what `tiny_models.save_tiny` takes; each is made once."""
    made: dict[str, str] = {}

    def model(**changes: Any) -> str:
        key = repr(sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("models") / f"tiny-{len(made)}"
            _save_tiny(folder, {"name": folder.name} | changes)
            made[key] = str(folder)
        return made[key]

    return model


def _save_tiny(folder: Path, given: dict[str, Any]) -> None:
    if importlib.util.find_spec("torch") is not None:
        from tiny_models import save_tiny

        save_tiny(folder, **given)
        return
    computes = shutil.which("PythonSlicer")  # the Python that has torch, see tools/test-py312.sh
    assert computes is not None
    code = f"import pathlib, tiny_models; tiny_models.save_tiny(pathlib.Path({str(folder)!r}), **{given!r})"
    subprocess.run([computes, "-c", code], cwd=ROOT / "tests", check=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
