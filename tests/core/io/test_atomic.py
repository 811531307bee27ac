"""A file is whole or as it was before, whatever happens to the writer."""

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mambaseg._errors import UserError
from mambaseg.image import Image
from mambaseg.io import atomic_path, read, write

WRITER = """
import sys
import numpy as np
from mambaseg.image import Image
from mambaseg.io import write
path, first = sys.argv[1], int(sys.argv[2])
print("ready", flush=True)
for value in range(first, 10_000):
    write(Image.from_array(np.full((40, 200, 200), value, np.uint16), spacing=(2, 1, 1), unit="mm"), path)
    print(value, flush=True)
"""


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(("name", "suffix"), [
    ("a.tif", ".tif"), ("a.nii.gz", ".nii.gz"), ("a.ome.tif", ".ome.tif"), ("model.json", ".json"),
    ("v1.2 of it.nrrd", ".nrrd"), ("noext", ""), ("n" * 250, ""),
])  # fmt: skip
def test_temporary_file_is_beside_and_named_for_its_writer(tmp_path: Path, name: str, suffix: str) -> None:
    with atomic_path(tmp_path / name) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(suffix)
        temporary.write_bytes(b"new")
        assert not (tmp_path / name).exists()
    assert (tmp_path / name).read_bytes() == b"new"


def test_missing_folder_is_made(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a" / "b" / "c.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a" / "b" / "c.txt").is_file()


def test_left_over_of_a_dead_process_goes_and_of_a_live_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_path(path) as mine:
        with subprocess.Popen([sys.executable, "-c", ""]) as child:
            child.wait()
        dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{child.pid}-"))
        dead.write_text("half")
        mine.write_text("one")
        with atomic_path(path) as other:
            assert mine.exists()
            assert not dead.exists()
            other.write_text("two")
    assert path.read_text() == "one"
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("suffix", [".tif", ".nii.gz", ".nrrd", ".mha"])
def test_killed_writer_leaves_the_old_or_the_new_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    generator = random.Random(suffix)
    first, n_kills = 1, 5
    write(Image.from_array(np.zeros((40, 200, 200), np.uint16)), path)
    for _ in range(n_kills):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE,
                                 text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert child.stdout.readline() == f"{first}\n"
        time.sleep(generator.uniform(0, 0.2))
        child.kill()
        told = [first, *(int(line) for line in child.stdout.read().split())]
        child.wait()
        child.stdout.close()
        values = np.unique(read(path).data)
        assert len(values) == 1, "a mixture of two files"
        assert values[0] in (told[-1], told[-1] + 1), "what was acknowledged is there"
        first = int(values[0]) + 1
    write(Image.from_array(np.zeros((2, 3), np.uint8)), path)
    assert left_over(tmp_path) == []


@pytest.fixture
def small_files() -> Callable[[], None]:
    """In a child process: no file may grow beyond 100 kB, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    return limit


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif", ".nii", ".nii.gz", ".nrrd", ".mha", ".png"])
def test_full_disk_is_one_sentence_and_the_old_file_stays(
    tmp_path: Path, suffix: str, small_files: Callable[[], None]
) -> None:
    path = tmp_path / f"a{suffix}"
    write(Image.from_array(np.ones((3, 4), np.uint8)), path)
    code = """
import sys
import numpy as np
from mambaseg._errors import UserError
from mambaseg.image import Image
from mambaseg.io import write
try:
    write(Image.from_array(np.random.default_rng(0).integers(0, 2**16, (600, 700), np.uint16)), sys.argv[1])
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False,
                          preexec_fn=small_files)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert str(path) in done.stdout
    assert "820 KB" in done.stdout
    assert read(path).data.sum() == 12
    assert left_over(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written"), atomic_path(tmp_path / "closed" / "a.txt"):
        pass
