"""The folder as Slicer's Extensions Index wants it, and that it can be published on its own."""

import ast
import json
import re
import struct
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

EXTENSION = Path(__file__).resolve().parents[2] / "slicer_extension"
MODULE = EXTENSION / "MambaSeg"
SOURCES = sorted(EXTENSION.rglob("*.py"))
FROM_THE_START = {"slicer", "vtk", "numpy", "qt", "ctk"}  # what Slicer brings


def test_cmake_lists_every_file():
    text = (MODULE / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "MambaSeg")
    there = {str(path.relative_to(MODULE)) for path in [*MODULE.glob("*.py"), *(MODULE / "MambaSegLib").glob("*.py"),
                                                       *(MODULE / "Resources").rglob("*.*")]}
    listed = set(re.findall(r"^  (\S+/?\S*\.\S+)$", text, re.M))
    assert listed == there


def test_catalogue_entry_fits_the_extension():
    entry = json.loads((EXTENSION / "MambaSeg.json").read_text())
    assert entry["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.1.json#")
    assert {"category", "scm_url"} <= set(entry) <= {
        "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory",
        "enabled", "tier"}
    cmake = (EXTENSION / "CMakeLists.txt").read_text()
    assert "project(MambaSeg)" in cmake
    assert re.search(r'EXTENSION_DEPENDS "([^"]*)"', cmake)[1].split() == entry["build_dependencies"]
    assert Path(entry["scm_url"]).name.startswith("Slicer")
    assert b"\r" not in (EXTENSION / "MambaSeg.json").read_bytes()


def test_folder_stands_alone():
    assert (EXTENSION / "LICENSE").read_text().split() == (EXTENSION.parent / "LICENSE").read_text().split()
    readme = (EXTENSION / "README.md").read_text()
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert pictures
    assert all((EXTENSION / name).is_file() for name in pictures)
    assert "../" not in readme
    width, height = struct.unpack(">II", (MODULE / "Resources/Icons/MambaSeg.png").read_bytes()[16:24])
    assert width == height == 128
    assert sum(path.stat().st_size for path in EXTENSION.rglob("*") if path.is_file()) < 2e6


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node, node.module


def test_nothing_heavy_is_imported_and_nothing_of_the_core_but_its_public_parts():
    allowed = {"mambaseg", "mambaseg.jobs", "mambaseg.learn", "mambaseg.learn.lineage", "mambaseg.learn.uncertainty",
               "mambaseg.models", "mambaseg.overlay", "mambaseg.progress", "mambaseg.words"}
    for path in SOURCES:
        for _, name in imports(path):
            assert name.split(".")[0] not in {"torch", "numba", "napari", "qtpy", "PySide6"}, path
            assert not name.startswith("mambaseg") or name in allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("name", ["MambaSeg.py", "MambaSegLib/__init__.py", "MambaSegLib/Install.py"])
def test_what_is_loaded_before_the_installation_needs_no_installation(name):
    at_file_scope = ast.parse((MODULE / name).read_text()).body
    tops = {alias.name.split(".")[0] for node in at_file_scope if isinstance(node, ast.Import) for alias in node.names}
    tops |= {node.module.split(".")[0] for node in at_file_scope if isinstance(node, ast.ImportFrom)}
    import sys

    assert tops <= FROM_THE_START | set(sys.stdlib_module_names)


def test_every_control_has_an_own_name_and_a_tip():
    root = ET.parse(MODULE / "Resources/UI/MambaSeg.ui").getroot()
    widgets = list(root.iter("widget"))
    names = [each.get("name") for each in widgets]
    assert len(names) == len(set(names))
    for each in widgets:
        if each.get("class") in ("QPushButton", "QCheckBox", "QRadioButton", "QComboBox", "QToolButton",
                                 "qMRMLNodeComboBox"):
            is_plain = each.get("name") == "more"
            assert is_plain or each.find("property[@name='toolTip']") is not None, each.get("name")
    connected = {each.findtext("receiver") for each in root.iter("connection")}
    assert {each.get("name") for each in widgets if "Node" in each.get("class")} <= connected


def python_312():
    """A Python as Slicer's own; None where there is none."""
    for command in ("python3.12", *map(str, Path.home().glob(".pyenv/versions/3.12*/bin/python"))):
        try:
            found = subprocess.run([command, "-c", "import sys; print(sys.version_info[:2] == (3, 12))"],
                                   capture_output=True, text=True, check=False)
        except OSError:
            continue
        if found.stdout.strip() == "True":
            return command
    return None


def test_compiles_with_slicers_python(tmp_path):
    command = python_312()
    if command is None:  # its grammar at least: 3.12 only added to it what is not used here
        for path in SOURCES:
            ast.parse(path.read_text(), feature_version=(3, 11))
        pytest.skip("there is no Python 3.12 here; only the syntax was checked, as for 3.11")
    code = "import sys, pathlib; [compile(pathlib.Path(p).read_text('utf-8'), p, 'exec') for p in sys.argv[1:]]"
    subprocess.run([command, "-W", "error", "-c", code, *map(str, SOURCES)], check=True, cwd=tmp_path)
