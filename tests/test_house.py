"""The house itself: import, size, README, wheel, and what must not be in the repository."""

import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

import mambaseg

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("core", "napari_mambaseg", "slicer_extension")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def in_new_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- import mambaseg ---


def test_import_brings_no_heavy_library() -> None:
    loaded = in_new_python("import mambaseg, sys; print(*{name.split('.')[0] for name in sys.modules})").split()
    heavy = {"torch", "numba", "napari", "qtpy", "scipy", "skimage", "SimpleITK", "pandas", "matplotlib", "typer"}
    assert "mambaseg" in loaded
    assert not heavy & set(loaded)


@pytest.mark.parametrize("name", ["Cancelled", "Grid", "Image", "Progress", "UserError"])
def test_light_names_bring_no_torch(name: str) -> None:
    assert in_new_python(f"import mambaseg, sys; mambaseg.{name}; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", mambaseg.__all__)
def test_public_name_is_there_and_is_not_a_module_by_accident(name: str) -> None:
    value = getattr(mambaseg, name)
    assert (type(value).__name__ == "module") == (name in ("nets", "ops"))
    assert name in dir(mambaseg)


def test_sub_package_does_not_hide_the_function_of_its_name() -> None:
    for order in ("import mambaseg.train; f = mambaseg.train", "f = mambaseg.train; import mambaseg.train.loop"):
        assert in_new_python(f"import mambaseg; {order}; print(callable(f), f is mambaseg.train)") == "True True"


def test_unknown_name_is_an_attribute_error() -> None:
    slip = "sgement"
    with pytest.raises(AttributeError, match="no attribute 'sgement'"):
        getattr(mambaseg, slip)


def test_stub_tells_type_checkers_the_same_names() -> None:
    stub = ast.parse((ROOT / "core/mambaseg/__init__.pyi").read_text(encoding="utf-8"))
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    listed = next(ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert listed == mambaseg.__all__ == sorted(mambaseg.__all__)
    assert imported == set(listed)


# --- size and dependencies ---


def long_functions(path: Path, limit: int) -> Iterator[str]:
    """Functions with more lines than `limit`, docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            doc = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0
            if node.end_lineno - node.lineno + 1 - doc > limit:
                yield f"{path.name}:{node.lineno} {node.name}"


def test_no_file_or_function_has_outgrown_one_job() -> None:
    files = list(sources(*PARTS))
    assert len(files) > 10
    assert [str(path) for path in files if path.read_bytes().count(b"\n") > MAX_FILE_LINES] == []
    assert [name for path in files for name in long_functions(path, MAX_FUNCTION_LINES)] == []


def test_size_check_sees_a_long_function(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text('def f():\n    """One.\n\n    Two.\n    """\n' + "    x = 1\n" * 9, encoding="utf-8")
    assert list(long_functions(path, 9)) == ["long.py:1 f"]
    assert list(long_functions(path, 10)) == []


def project_table() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def distribution(requirement: str) -> str:
    """Normalised name at the head of a requirement."""
    return re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-")


def test_every_imported_library_is_declared() -> None:
    tops = set()
    for path in sources("core", "napari_mambaseg"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                tops.add(node.module.split(".")[0])
    project = project_table()
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in extras if name != "test" for line in extras[name])]
    declared = {distribution(line) for line in wanted}
    known = packages_distributions()
    names = {top: known.get(top, [top.replace("_", "-")]) for top in tops - set(sys.stdlib_module_names)}
    missing = {top for top, found in names.items() if not {distribution(name) for name in found} & declared}
    assert missing <= {"mambaseg", "napari_mambaseg", "triton"}  # triton comes with torch where it runs at all


def test_constraints_pin_every_direct_dependency() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {distribution(name) for name in pins}
    project = project_table()
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {distribution(line) for line in wanted} <= pinned
    assert pins["torch"] == "2.13.0"


# --- README ---


def shell_lines() -> list[str]:
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]


def test_make_targets_named_in_the_readme_exist() -> None:
    named = {match[1] for line in shell_lines() if (match := re.match(r"make (\S+)", line))}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "test"} <= named <= targets


def test_commands_named_in_the_readme_exist(monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    from mambaseg.cli import main

    named = {match[1] for line in shell_lines() if (match := re.match(r"mambaseg (\w+)", line))}
    assert {"segment", "train"} <= named
    for command in sorted(named):
        monkeypatch.setattr(sys, "argv", ["mambaseg", command, "--help"])
        with pytest.raises(SystemExit) as stop:
            sys.exit(main())
        assert not stop.value.code, command
        options = re.findall(r"(--[a-z][a-z-]*)", " ".join(x for x in shell_lines() if f"mambaseg {command}" in x))
        text = capsys.readouterr().out
        assert [option for option in options if option not in text] == [], command


# --- what is and is not shipped ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("mambaseg-*-py3-none-any.whl")))


def test_wheel_holds_all_of_both_packages_byte_for_byte(wheel: zipfile.ZipFile) -> None:
    expected = {}
    for package in (ROOT / "core/mambaseg", ROOT / "napari_mambaseg"):
        files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {path.relative_to(package.parent).as_posix(): path for path in files}
    assert {"mambaseg/__init__.pyi", "mambaseg/py.typed", "napari_mambaseg/__init__.py"} <= set(expected)
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == set(expected)
    assert [name for name, path in expected.items() if wheel.read(name) != path.read_bytes()] == []


@pytest.mark.parametrize("model", sorted(path.name for path in (ROOT / "core/mambaseg/models/bundled").iterdir()))
def test_wheel_holds_the_bundled_model(wheel: zipfile.ZipFile, model: str) -> None:
    folder = f"mambaseg/models/bundled/{model}"
    sizes = {Path(item.filename).name: item.file_size for item in wheel.infolist() if item.filename.startswith(folder)}
    assert {"model.json", "weights.safetensors", "test_input.npy", "test_output.npy", "README.md"} <= set(sizes)
    assert sum(sizes.values()) <= 8_000_000


def test_wheel_says_licence_and_command(wheel: zipfile.ZipFile) -> None:
    about = {name.split(".dist-info/")[1]: wheel.read(name) for name in wheel.namelist() if ".dist-info/" in name}
    assert about["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert b"License-Expression: Apache-2.0" in about["METADATA"]
    assert f"Version: {mambaseg.__version__}\n".encode() in about["METADATA"]
    assert b"mambaseg = mambaseg.cli:main" in about["entry_points.txt"]


def test_no_data_set_file_is_committed(shared: Path) -> None:
    hashes = set()
    for path in [*shared.glob("data/*/dataset.json"), shared / "data/zoo/manifest.json"]:
        hashes |= set(re.findall(r"\b[0-9a-f]{64}\b", json.dumps(json.loads(path.read_text(encoding="utf-8")))))
    assert len(hashes) > 1000
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("needs a git checkout")
    tracked = (ROOT / name for name in listed.stdout.split("\0") if name)
    contents = {path: path.read_bytes() for path in tracked if path.is_file()}
    assert [str(path) for path, data in contents.items() if data and hashlib.sha256(data).hexdigest() in hashes] == []
