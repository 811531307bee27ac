"""The folder as Slicer's Extensions Index wants it, and that it can be published on its own."""

import ast
import json
import os
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
    allowed = {"mambaseg", "mambaseg.jobs", "mambaseg.learn", "mambaseg.learn.corrections", "mambaseg.learn.lineage",
               "mambaseg.learn.project", "mambaseg.learn.uncertainty", "mambaseg.models", "mambaseg.overlay",
               "mambaseg.progress", "mambaseg.words"}
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


# --- against Slicer's own files, where there is a checkout of them ---


@pytest.fixture
def checkout():
    """Slicer's source, of which `SLICER_BASE_PYTHON` is the folder Base/Python."""
    base = os.environ.get("SLICER_BASE_PYTHON")
    if not base:
        pytest.skip("needs Slicer's source: SLICER_BASE_PYTHON=<Slicer checkout>/Base/Python")
    return Path(base).parents[1]


def calls(pattern):
    """Calls in the extension whose function matches: what matched, and the call."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (found := re.fullmatch(pattern, ast.unparse(node.func))):
                yield found[1], node


def takes(function, call):
    """Whether a function's definition takes what a call gives it."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    given = {keyword.arg for keyword in call.keywords}
    n_needed = len(names) - len(arguments.defaults)
    return (arguments.vararg is not None or len(call.args) <= len(names)) and (
        arguments.kwarg is not None or given <= {*names, *(each.arg for each in arguments.kwonlyargs)}) and (
        set(names[len(call.args):n_needed]) <= given)


@pytest.mark.parametrize(("file", "pattern"), [("util.py", r"slicer\.util\.(\w+)"),
                                               ("packaging.py", r"packaging\.(\w+)")])
def test_slicers_functions_are_there_and_take_what_they_are_given(checkout, file, pattern):
    tree = ast.parse((checkout / "Base" / "Python" / "slicer" / file).read_text())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = list(calls(pattern))
    assert found
    for name, call in found:
        assert name in functions, name
        assert takes(functions[name], call), ast.unparse(call)


def test_slicers_widgets_have_what_is_asked_of_them(checkout):
    """Methods called by name and properties set in the .ui file, in the widgets' C++ headers."""
    headers = {path.stem: path.read_text() for folder in ("Libs/MRML/Widgets", "Modules/Loadable/Segmentations/Widgets")
               for path in (checkout / folder).glob("qMRML*.h")}
    if not headers:
        pytest.skip("this is not all of Slicer's source")
    for name, _ in calls(r"(?:self\._ui\.|self\.ui\.)?editor\.(\w+)"):
        assert re.search(rf"\b{name}\(", headers["qMRMLSegmentEditorWidget"]), name
    assert "checkedNodes() const" in headers["qMRMLCheckableNodeComboBox"]
    assert "void currentNodeChanged(vtkMRMLNode* node);" in headers["qMRMLNodeComboBox"]
    root = ET.parse(MODULE / "Resources/UI/MambaSeg.ui").getroot()
    for widget in root.iter("widget"):
        header = headers.get(widget.get("class").replace("Checkable", ""))
        for name in (each.get("name") for each in widget.findall("property") if each.get("stdset") == "0"):
            if header is not None and name != "SlicerParameterName":
                assert re.search(rf"Q_PROPERTY\(\w+ {name} ", header), name
