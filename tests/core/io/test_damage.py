"""Damaged files: read or refused, never a traceback, a crash, a hang or the memory of the machine."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel.testing
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from pydicom.data import get_testdata_file

from mambaseg._errors import UserError
from mambaseg.image import Image
from mambaseg.io import read, write

N_MUTATIONS = int(os.environ.get("MAMBASEG_MUTATIONS", "24"))  # of each sort of file; the nightly run asks for more
SOURCES = ("plain.tif", "packed.tif", "pages.tif", "imagej.tif", "stack.ome.tif", "a.png", "a.jpg", "a.nii", "a.nii.gz",
           "a.nrrd", "a.mha", "ct.dcm", "j2k.dcm", "a.npy")  # fmt: skip
READ_ALL = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
from mambaseg._errors import UserError
from mambaseg.io import read
import mambaseg.io.tiff, mambaseg.io.raster, mambaseg.io.dicom
for path in sys.stdin.read().split("\\0"):
    try:
        image = read(path)
        said = ""
    except UserError as error:
        said = str(error)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([path, said, peak_kb]), flush=True)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2000, (6, 40, 50)).astype(np.uint16)
    volume = Image.from_array(values, "ZYX", (3.0, 0.5, 0.5), "mm")
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "imagej.tif", "stack.ome.tif"):
        write(volume, folder / name)
    tifffile.imwrite(folder / "plain.tif", values[0], metadata=None)
    tifffile.imwrite(folder / "packed.tif", values[0], tile=(16, 16), compression="zlib", predictor=True, metadata=None)
    tifffile.imwrite(folder / "pages.tif", values, photometric="minisblack", compression="lzw", metadata=None)
    picture = Pillow.fromarray(generator.integers(0, 255, (40, 50, 3), np.uint8))
    picture.save(folder / "a.png")
    picture.save(folder / "a.jpg")
    np.save(folder / "a.npy", values)
    (folder / "ct.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    (folder / "j2k.dcm").write_bytes(Path(get_testdata_file("MR_small_jp2klossless.dcm")).read_bytes())
    return folder


def mutated(content: bytes, generator: random.Random, kind: int) -> bytes:
    """Cut off, or with a few bytes changed (mostly near the begin, where headers are), or with a part twice or gone."""
    changed = bytearray(content)
    where = generator.randrange(min(len(content), 600) if generator.random() < 0.7 else len(content))
    if kind == 0:
        return content[: generator.randrange(len(content))]
    if kind == 1:
        for i in range(generator.randint(1, 4)):
            value = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)])
            changed[min(where + i, len(changed) - 1)] = value
    elif kind == 2:
        changed[where:where] = changed[where : where + generator.randint(1, 64)]
    else:
        del changed[where : where + generator.randint(1, 64)]
    return bytes(changed)


def test_mutated_files_are_read_or_refused(sources: Path, tmp_path: Path) -> None:
    paths = []
    for name in SOURCES:
        generator = random.Random(name)
        content = (sources / name).read_bytes()
        for i in range(N_MUTATIONS):
            path = tmp_path / f"{i:04d}-{name}"
            path.write_bytes(mutated(content, generator, i % 4))
            paths.append(str(path))
    results = read_in_child(paths)
    assert len(results) == len(paths)
    for path, said, peak_kb in results:
        if said:
            assert Path(path).name in said
            assert "\n" not in said
        assert peak_kb < 2 * 2**20, f"{path} took {peak_kb} kB"
    print(f"tried {len(paths)}, {sum(bool(said) for _, said, _ in results)} refused, lost 0")  # noqa: T201


def read_in_child(paths: list[str]) -> list[Any]:
    """[path, refusal or "", peak memory in kB] of each; the child must live through all of them."""
    done = subprocess.run([sys.executable, "-c", READ_ALL], input="\0".join(paths), capture_output=True, text=True,
                          timeout=20 * len(paths), check=False)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nafter {results[-1:]}"
    assert done.stderr == "", "nothing of a library's own reaches the screen"
    return results


@pytest.mark.parametrize("name", [name for name in SOURCES if not name.endswith((".jpg", ".dcm"))])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_cut_file_is_noticed(sources: Path, tmp_path: Path, name: str, share: float) -> None:
    content = (sources / name).read_bytes()
    cut = tmp_path / f"cut.{name.partition('.')[2]}"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="cut"):
        read(cut)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_flipped_bit_in_packed_voxels_is_noticed(sources: Path, tmp_path: Path, suffix: str) -> None:
    content = bytearray((sources / f"a{suffix}").read_bytes())
    content[len(content) // 2] ^= 0x10
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=f"a{suffix}"):
        read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(("name", "header"), [
    ("a.nrrd", b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 100000 100000 100000\nencoding: gzip\n\n"),
    ("a.nrrd", b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 0 5 5\nencoding: raw\n\n"),
    ("a.nrrd", b"NRRD0004\ntype: uchar\ndimension: 99999999999\nsizes: 5 5\nencoding: raw\n\n"),
    ("a.nhdr", b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 8 8\nencoding: raw\ndata file: /etc/passwd\n\n"),
    ("a.nhdr", b"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 8 8\nencoding: raw\ndata file: ../a.raw\n\n"),
    ("a.mhd", b"NDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementDataFile = /etc/passwd\n"),
    ("a.mhd", b"NDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementDataFile = LIST\n"),
    ("a.mha", b"NDims = 3\nDimSize = 90000 90000 90000\nElementType = MET_UCHAR\nCompressedData = True\n"
              b"ElementDataFile = LOCAL\n"),
    ("a.mha", b"NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 0 1 1\nElementDataFile = LOCAL\n"
              b"12345678"),
    ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40)),
    ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999, 99999, 9), }"
              + b" " * 58),
])  # fmt: skip
def test_hostile_header(tmp_path: Path, name: str, header: bytes) -> None:
    (tmp_path / name).write_bytes(header)
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["anatomical.nii", "example4d.nii.gz", "example_nifti2.nii.gz", "functional.nii",
                                  "standard.nii.gz", "reoriented_anat_moved.nii"])
def test_real_nifti_as_nibabel_has_it(name: str) -> None:
    path = Path(nibabel.testing.data_path) / name
    image, other = read(path), nibabel.load(path)
    values = np.asanyarray(other.dataobj)
    assert np.allclose(image.data, values.T, rtol=1e-5)
    affine = np.diag([-1, -1, 1, 1]) @ other.affine
    assert np.allclose(image.grid.affine_xyz, affine, rtol=1e-5, atol=1e-5)


def test_analyze_is_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match=r"Analyze 7\.5.*3D Slicer"):
        read(Path(nibabel.testing.data_path) / "analyze.hdr")
