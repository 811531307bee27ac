"""Images on their way to a child process."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mambaseg import Cancelled, Grid, Image, Progress, UserError, jobs
from mambaseg.jobs import images


class Lazy:
    """An array that is read piece by piece, as dask and zarr have them."""

    def __init__(self, values: np.ndarray, chunks: Any = None) -> None:
        self.values, self.chunks = values, chunks
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim
        self.largest = self.n_read = 0

    def __getitem__(self, index: Any) -> np.ndarray:
        part = self.values[index]
        self.largest, self.n_read = max(self.largest, part.nbytes), self.n_read + part.size
        return part

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise AssertionError("read as a whole")


def values(shape: tuple[int, ...] = (3, 7, 11, 13), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, shape).astype(dtype)


@pytest.mark.parametrize("chunks", [None, (1, 4, 5, 6), ((2, 1), (4, 3), (5, 5, 1), (6, 6, 1)), (9, 9, 9, 99)])
@pytest.mark.parametrize("limit", [1, 100, 700, 2**26])
def test_a_lazy_image_is_copied_in_bounded_pieces_each_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: Any, limit: int) -> None:
    monkeypatch.setattr(images, "_BLOCK_BYTES", limit)
    lazy = Lazy(values(), chunks)
    grid = Grid((7, 11, 13), (2.0, 1.0, 0.5), "mm", (1, 2, 3), (0, 1, 0, 1, 0, 0, 0, 0, 1), is_of_patient=True)
    image = Image(lazy, "CZYX", grid, ("a", "b", "c"), source="x.tif",
                  metadata={"format": "NRRD", "header": {"patient": "Doe"}, "notices": ("guessed",)})
    name = jobs.write_image(tmp_path, image)
    copy = jobs.read_image(tmp_path, name)
    np.testing.assert_array_equal(copy.data, values())
    assert isinstance(copy.data, np.memmap)
    assert (copy.axes, copy.grid, copy.channel_names, copy.source) == ("CZYX", grid, ("a", "b", "c"), "x.tif")
    assert copy.grid.is_of_patient
    assert list(copy.notices) == ["guessed"]
    assert "Doe" not in (tmp_path / "image.json").read_text()
    largest_chunk = 2 if chunks is None else 2 * 3 * 7 * 11 * 13 if chunks[0] == 9 else 2 * 2 * 4 * 5 * 6
    assert lazy.largest <= max(limit, largest_chunk)
    assert lazy.n_read == values().size


@pytest.mark.parametrize("array", [
    values((5, 6), ">i2"), values((5, 6), "float32")[::-1, ::2], np.asfortranarray(values((5, 6))),
    values((5, 6)) > 30_000,
])
def test_any_layout_and_type_of_numbers_survives(tmp_path: Path, array: np.ndarray) -> None:
    copy = jobs.read_image(tmp_path, jobs.write_image(tmp_path, array))
    np.testing.assert_array_equal(copy.data, array)
    assert copy.data.dtype == array.dtype


def test_a_copy_can_be_cancelled_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_BLOCK_BYTES", 1)
    seen: list[Progress] = []

    def stop(update: Progress) -> None:
        seen.append(update)
        if update.done == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        jobs.write_image(tmp_path, values((5, 6)), progress=stop)
    assert [update.done for update in seen] == [1, 2, 3]
    assert seen[0].total == 30
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    huge = Lazy(np.broadcast_to(np.uint8(1), (free // 1000 + 1000, 1000)))
    with pytest.raises(UserError, match=r"too little room \(about [0-9]+ MB are needed\)"):
        jobs.write_image(tmp_path, Image(huge, "YX", Grid(huge.shape, (1, 1))))
    assert list(tmp_path.iterdir()) == []
