import importlib.util

import imageio.v3 as imageio
import nibabel
import numpy as np
import pytest
import tifffile
from scipy import ndimage


@pytest.fixture(scope="module")
def make(root):
    spec = importlib.util.spec_from_file_location("sample_data_make", root / "sample_data" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(make):
    return make.arrays()


def read(path):
    if path.name.endswith(".nii.gz"):
        return np.asarray(nibabel.load(path).dataobj)
    return imageio.imread(path) if path.suffix == ".png" else tifffile.imread(path)


def test_the_committed_files_hold_what_the_seed_draws(root, drawn):
    for name, array in drawn.items():
        kept = read(root / "sample_data" / name)
        assert kept.dtype == array.dtype, name
        np.testing.assert_array_equal(kept, array, err_msg=name)


def test_all_files_together_stay_small(root):
    assert sum(path.stat().st_size for path in (root / "sample_data").glob("*.*")) < 1.5e6


def test_writing_again_gives_the_same_arrays(make, tmp_path, drawn):
    written = make.write(tmp_path / "new")
    assert sorted(path.name for path in written) == sorted(drawn)
    for path in written:
        np.testing.assert_array_equal(read(path), drawn[path.name], err_msg=path.name)


@pytest.mark.parametrize(("name", "count"), [("nuclei", 36), ("tissue", 115)])
def test_every_nucleus_is_one_piece_of_a_plausible_size(drawn, name, count):
    labels = drawn[f"{name}_labels.tif"]
    sizes = np.bincount(labels.ravel())[1:]
    assert len(sizes) == count
    assert sizes.min() >= 30
    assert all(ndimage.label(labels == number, np.ones((3, 3)))[1] == 1 for number in range(1, count + 1))


@pytest.mark.parametrize("name", ["nuclei", "tissue"])
def test_many_nuclei_touch(drawn, name):
    labels = drawn[f"{name}_labels.tif"]
    n_blobs = ndimage.label(labels > 0)[1]
    assert n_blobs < 0.75 * labels.max()


def test_the_pictures_show_their_truth(drawn):
    fluorescence, nuclei = drawn["nuclei.tif"].astype(float), drawn["nuclei_labels.tif"] > 0
    assert fluorescence[nuclei].mean() > 3 * fluorescence[~nuclei].mean()
    red, stained = drawn["tissue.png"][..., 0].astype(float), drawn["tissue_labels.tif"] > 0
    assert red[stained].mean() < red[~stained].mean() - 60
    block, structures = drawn["brain_block.nii.gz"], drawn["brain_block_labels.nii.gz"]
    assert set(np.unique(structures)) == {0, 1, 2}
    assert block[structures == 1].mean() > block[structures == 2].mean() + 20


def test_the_volume_lies_obliquely_with_its_spacing(root):
    for name in ("brain_block.nii.gz", "brain_block_labels.nii.gz"):
        nifti = nibabel.load(root / "sample_data" / name)
        assert nibabel.affines.voxel_sizes(nifti.affine) == pytest.approx((1, 1, 2), abs=1e-6)
        assert nifti.header.get_xyzt_units()[0] == "mm"
        assert (np.abs(nifti.affine[:3, :3]) > 0.02).sum() == 8  # turned about two axes


def test_the_movie_knows_its_axes_and_its_cells(root, drawn):
    with tifffile.TiffFile(root / "sample_data" / "cells_over_time.tif") as movie:
        assert movie.series[0].axes == "TYX"
        assert movie.imagej_metadata["unit"] == "um"
        assert 1 / (np.divide(*movie.pages[0].tags["XResolution"].value)) == pytest.approx(0.65, rel=1e-5)
    numbers = [set(np.unique(frame)) - {0} for frame in drawn["cells_over_time_labels.tif"]]
    assert numbers[:4] == [set(range(1, 10))] * 4
    assert numbers[4:] == [set(range(2, 12))] * 4
