"""TIFF's dialects: axes, voxel sizes with their units, and what is refused."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from mambaseg._errors import ImageError
from mambaseg.image import Image
from mambaseg.io import read, write


def saved(path: Path, shape: tuple[int, ...], **options: Any) -> Image:
    values = np.arange(np.prod(shape)).reshape(shape).astype(options.pop("dtype", np.uint16))
    tifffile.imwrite(path, values, **options)
    return read(path)


@pytest.mark.parametrize(("size", "unit", "expected", "name"), [
    (0.25, "µm", 0.25, "um"), (250, "nm", 0.25, "um"), (2.5e-4, "mm", 2.5e-4, "mm"), (1, "parsec", 1, "px"),
])  # fmt: skip
def test_ome_units(tmp_path: Path, size: float, unit: str, expected: float, name: str) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size,
                "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}  # fmt: skip
    image = saved(tmp_path / "a.ome.tif", (4, 5), metadata=metadata)
    assert image.grid.spacing == pytest.approx((expected,) * 2)
    assert image.grid.unit == name


def test_ome_channel_names_and_axes(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.ome.tif", (3, 2, 4, 5), metadata={"axes": "ZCYX", "Channel": {"Name": ["a", "b"]}})
    assert (image.axes, image.data.shape, image.channel_names) == ("CZYX", (2, 3, 4, 5), ("a", "b"))
    write(image, tmp_path / "b.ome.tif")
    assert read(tmp_path / "b.ome.tif").channel_names == ("a", "b")


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1), ("um", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("inch", 25400)])
def test_imagej_units(tmp_path: Path, unit: str, factor: float) -> None:
    image = saved(tmp_path / "a.tif", (3, 4, 5), imagej=True, resolution=(4, 2),
                  metadata={"axes": "ZYX", "spacing": 2.5, "unit": unit})
    assert image.grid.spacing == pytest.approx((2.5 * factor, 0.5 * factor, 0.25 * factor))
    assert image.grid.unit == "um"


def test_imagej_without_a_unit_is_in_pixels(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.tif", (3, 4, 5), imagej=True, resolution=(4, 2), metadata={"axes": "ZYX"})
    assert (image.grid.spacing, image.grid.unit) == ((1.0, 1.0, 1.0), "px")


@pytest.mark.parametrize(("per_unit", "unit", "um"), [
    (20_000, "CENTIMETER", 0.5), (72, "INCH", None), (300, "INCH", None), (50_800, "INCH", 0.5), (100, "NONE", None),
])  # fmt: skip
def test_resolution_tags_are_believed_where_they_can_be_a_microscopes(
    tmp_path: Path, per_unit: float, unit: str, um: float | None
) -> None:
    image = saved(tmp_path / "a.tif", (4, 5), resolution=(per_unit, per_unit), resolutionunit=unit, metadata=None)
    assert image.grid.unit == ("um" if um else "px")
    assert image.grid.spacing == pytest.approx((um or 1.0,) * 2)


@pytest.mark.parametrize("options", [
    {"byteorder": ">"}, {"bigtiff": True}, {"tile": (16, 16)}, {"compression": "zlib", "predictor": True},
    {"compression": "lzw"}, {"rowsperstrip": 3},
])  # fmt: skip
def test_storage_does_not_matter(tmp_path: Path, options: dict[str, Any]) -> None:
    image = saved(tmp_path / "a.tif", (40, 50), **options)
    assert np.array_equal(image.data, np.arange(2000).reshape(40, 50))
    assert image.data.dtype.isnative


def test_numpy_axes_survive_tifffiles_own_description(tmp_path: Path) -> None:
    assert saved(tmp_path / "a.tif", (3, 4, 5), photometric="minisblack", metadata={"axes": "TYX"}).axes == "TYX"
    plain = saved(tmp_path / "b.tif", (3, 4, 5), photometric="minisblack")
    assert plain.axes == "ZYX"
    assert "read as slices" in plain.notices[0]


def test_samples_without_alpha_are_channels(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.tif", (4, 5, 6), photometric="minisblack", planarconfig="contig",
                  extrasamples=["unspecified"] * 5, metadata=None)
    assert (image.axes, image.data.shape, image.is_rgb) == ("CYX", (6, 4, 5), False)


def test_part_of_a_set_of_files_opens_no_other(tmp_path: Path) -> None:
    saved(tmp_path / "secret.tif", (4, 5), ome=True)
    image = saved(tmp_path / "a.ome.tif", (2, 4, 5), metadata={"axes": "ZYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        xml, data = file.ome_metadata or "", file.asarray()
    uuid = '<UUID FileName="secret.tif">urn:uuid:00000000-0000-0000-0000-000000000000</UUID></TiffData>'
    changed = xml.replace('PlaneCount="2"/>', f'PlaneCount="2">{uuid}')
    assert changed != xml
    tifffile.imwrite(tmp_path / "b.ome.tif", data, photometric="minisblack", description=changed.encode(),
                     metadata=None)
    again = read(tmp_path / "b.ome.tif")
    assert np.array_equal(again.data, image.data)
    assert "set of files" in again.notices[0]


def test_entities_are_refused(tmp_path: Path) -> None:
    xml = '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">]><OME>&lol;</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((4, 5), np.uint8), description=xml, metadata=None)
    with pytest.raises(ImageError, match="entities"):
        read(tmp_path / "a.ome.tif")


def test_lost_last_page_is_noticed(tmp_path: Path) -> None:
    saved(tmp_path / "a.tif", (4, 30, 40), photometric="minisblack", compression="zlib", metadata=None)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(ImageError, match=r"b\.tif is cut off"):
        read(tmp_path / "b.tif")


def test_missing_tile_is_noticed(tmp_path: Path) -> None:
    saved(tmp_path / "a.tif", (64, 64), tile=(32, 32), compression="zlib", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tag = file.pages.first.tags["TileByteCounts"]
        form = {3: "<H", 4: "<I"}[int(tag.dtype)]
    struct.pack_into(form, content, tag.valueoffset, 0)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match="missing"):
        read(tmp_path / "a.tif")
