"""The command line as a user meets it: real child processes, real files."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.io import imread, imsave

import tiny_models
from mambaseg import Progress, segment
from mambaseg.cli import _console, demo
from mambaseg.cli._app import run as run_here
from mambaseg.cli._console import ProgressLine
from mambaseg.models import catalogue

COMMAND = [sys.executable, "-m", "mambaseg"]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
                          cwd=cwd)


def spots(shape: tuple[int, int] = (48, 64), seed: int = 0) -> np.ndarray:
    """Bright spots on a noisy ground, uint8 RGB."""
    rng = np.random.default_rng(seed)
    values = rng.normal(40, 8, (*shape, 3))
    rows, columns = np.mgrid[:shape[0], :shape[1]]
    for row, column in rng.uniform(0, 1, (12, 2)) * shape:
        values += 160 * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 12)[..., None]
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for colour pictures; its network is not trained, so it finds something everywhere."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.save_tiny(folder)
    return folder


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def test_without_arguments_it_prints_three_examples() -> None:
    done = run()
    assert done.returncode == 0
    assert sum(line.startswith("    mambaseg ") for line in done.stdout.splitlines()) == 3
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [("--help",), ("segment", "--help"), ("models",), ("--version",)])
def test_what_needs_no_network_does_not_load_torch(arguments: tuple[str, ...]) -> None:
    code = ("import sys; from mambaseg.cli._app import run; status = run(sys.argv[1:]);"
            "print(sorted({'torch', 'numba', 'SimpleITK', 'pandas', 'skimage'} & set(sys.modules)), status)")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60,
                          check=False)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr


@pytest.mark.parametrize("arguments", [
    ("segmnt", "x.tif"), ("segment",), ("segment", "x.tif"), ("bench",), ("segment", "x.tif", "-m", "m", "--tat"),
    ("train", "data", "-o", "model", "--minutes", "1", "--iterations", "5"), ("models", "show", "nothing"),
    ("segment", "x.tif", "-m", "m", "--roi", "1:2:3"), ("segment", "x.tif", "-m", "m", "--roi", "5:2,0:9"),
])
def test_wrong_use_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mambaseg: ")
    assert list(tmp_path.iterdir()) == []


def test_segment_writes_labels_features_record_and_overlay(model: Path, inputs: Path, tmp_path: Path) -> None:
    imsave(inputs / "cells.png", spots(), check_contrast=False)
    done = run("segment", inputs / "cells.png", "-m", model, "-o", tmp_path / "out", "--overlay")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cells_features.csv", "cells_labels.tif", "cells_overlay.png", "cells_record.json"]
    labels = tifffile.imread(tmp_path / "out" / "cells_labels.tif")
    record = json.loads((tmp_path / "out" / "cells_record.json").read_text())
    features = (tmp_path / "out" / "cells_features.csv").read_text().splitlines()
    assert labels.shape == (48, 64)
    assert labels.max() == record["n_objects"] == len(features) - 1 > 0
    assert features[0].startswith("label,centroid_y_px,centroid_x_px,area_px")
    assert imread(tmp_path / "out" / "cells_overlay.png").shape[2] == 3
    assert f"cells.png: {record['n_objects']} object" in done.stdout


def test_the_shell_and_python_give_the_same_labels(model: Path, inputs: Path) -> None:
    picture = spots(seed=3)
    imsave(inputs / "cells.png", picture, check_contrast=False)
    assert run("segment", inputs / "cells.png", "-m", model, "--quiet").returncode == 0
    np.testing.assert_array_equal(tifffile.imread(inputs / "cells_labels.tif"), segment(picture, model).labels)


def test_json_is_one_line_an_input_and_a_bad_one_stops_no_other(model: Path, inputs: Path) -> None:
    imsave(inputs / "a.png", spots(), check_contrast=False)
    (inputs / "b.png").write_bytes(b"no picture")
    imsave(inputs / "c.png", spots(seed=1), check_contrast=False)
    done = run("segment", inputs / "a.png", inputs / "b.png", inputs / "c.png", "-m", model, "--json")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "b.png" in done.stderr
    first, second, third = (json.loads(line) for line in done.stdout.splitlines())
    assert "b.png" in second["error"]
    for answer in (first, third):
        assert Path(answer["labels"]).exists()
        assert answer["n_objects"] == tifffile.imread(answer["labels"]).max()
    assert not list(inputs.glob("b_*"))


def make_missing(path: Path) -> None:
    """Nothing there."""


def make_text(path: Path) -> None:
    path.write_text("these are words\n" * 50)


def make_truncated(path: Path) -> None:
    imsave(path, spots((200, 200)), check_contrast=False)
    path.write_bytes(path.read_bytes()[:3000])


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


def make_constant(path: Path) -> None:
    imsave(path, np.full((64, 64, 3), 9, np.uint8), check_contrast=False)


def make_all_nan(path: Path) -> None:
    tifffile.imwrite(path, np.full((64, 64), np.nan, np.float32))


def make_two_channels(path: Path) -> None:
    tifffile.imwrite(path, np.stack([spots()[..., 0]] * 2), metadata={"axes": "CYX"}, imagej=True)


BAD = {
    "missing": (".png", make_missing, "missing.png"), "text": (".png", make_text, "text.png"),
    "text_tif": (".tif", make_text, "text_tif.tif"), "cut": (".png", make_truncated, "cut.png"),
    "cut_tif": (".tif", make_truncated, "cut_tif.tif"), "empty": (".tif", make_empty, "empty.tif"),
    "constant": (".png", make_constant, "constant"), "nan": (".tif", make_all_nan, "no finite value"),
    "channels": (".tif", make_two_channels, "2 channels"), "format": (".docx", make_text, "format.docx"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unusable_picture_is_one_line_and_leaves_nothing(
        name: str, model: Path, inputs: Path, tmp_path: Path) -> None:
    suffix, make, expected = BAD[name]
    path = inputs / f"{name}{suffix}"
    make(path)
    before = sorted(inputs.iterdir())
    done = run("segment", path, "-m", model, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert expected in done.stderr
    assert path.name in done.stderr
    assert done.stdout == ""
    assert sorted(inputs.iterdir()) == before
    assert not (tmp_path / "out").exists()


def test_some_nan_and_a_small_picture_are_told_and_segmented(model: Path, inputs: Path) -> None:
    values = spots((12, 15))[..., 0].astype(np.float32)
    values[2, 3:7] = np.nan
    tifffile.imwrite(inputs / "small.tif", values)
    done = run("segment", inputs / "small.tif", "-m", model)
    assert done.returncode == 0
    assert "4 values were NaN" in done.stderr
    assert "padded" in done.stderr
    assert tifffile.imread(inputs / "small_labels.tif").shape == (12, 15)


def test_an_unknown_model_and_a_broken_one_are_one_line(model: Path, inputs: Path, tmp_path: Path) -> None:
    imsave(inputs / "cells.png", spots(), check_contrast=False)
    done = run("segment", inputs / "cells.png", "-m", "nucleii-2d", "-o", tmp_path / "out")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert 'no model "nucleii-2d"' in done.stderr
    broken = tiny_models.save_tiny(tmp_path / "broken").folder
    assert broken is not None
    content = bytearray((broken / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (broken / "weights.safetensors").write_bytes(content)
    done = run("segment", inputs / "cells.png", "-m", broken, "-o", tmp_path / "out")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "checksum" in done.stderr
    assert not (tmp_path / "out").exists()


def test_two_inputs_are_never_written_to_one_file(model: Path, inputs: Path, tmp_path: Path) -> None:
    (inputs / "more").mkdir()
    for path in (inputs / "cells.png", inputs / "more" / "cells.png"):
        imsave(path, spots(), check_contrast=False)
    done = run("segment", inputs / "cells.png", inputs / "more" / "cells.png", "-m", model, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "both be written" in done.stderr
    assert not (tmp_path / "out").exists()


def test_models_are_described_and_checked(model: Path) -> None:
    done = run("models", "check", model)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "ok")
    assert "# Tiny tiny" in run("models", "show", model).stdout
    assert json.loads(run("models", "show", model, "--json").stdout)["name"] == "tiny"


@pytest.mark.parametrize(("wanted", "policy"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
        model: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | None, policy: str) -> None:
    monkeypatch.setenv("OMP_DISPLAY_ENV", "true")  # OpenMP itself says on stderr how it will wait
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if wanted is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", wanted)
    told = run("models", "check", model).stderr
    assert re.findall(r"OMP_WAIT_POLICY ?= ?'(\w+)'", told) == [policy]


def wait_for(line: str, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    for text in process.stderr:
        if line in text:
            return
    raise AssertionError(f"{line!r} never came")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_nothing_half_written(model: Path, inputs: Path, tmp_path: Path) -> None:
    imsave(inputs / "large.png", spots((1500, 1500)), check_contrast=False)
    process = subprocess.Popen([*COMMAND, "segment", str(inputs / "large.png"), "-m", str(model), "-o",
                                str(tmp_path / "out")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for("Segmenting", process)  # the first plain line of progress
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Cancelled" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_while_writing_leaves_old_or_new_results(model: Path, inputs: Path, tmp_path: Path) -> None:
    """A program that segments the same file again and again is killed; each result is whole, whatever the moment."""
    path = inputs / "cells.png"
    imsave(path, spots(), check_contrast=False)
    loop = ("import sys; from mambaseg.cli._app import run\n"
            "while True: run(['segment', sys.argv[1], '-m', sys.argv[2], '-o', sys.argv[3], '--overlay', '--json'])")
    rng = np.random.default_rng(0)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", loop, str(path), str(model), str(tmp_path / "out")],
                              stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()  # one round is done
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        assert tifffile.imread(tmp_path / "out" / "cells_labels.tif").shape == (48, 64)
        assert json.loads((tmp_path / "out" / "cells_record.json").read_text())["n_objects"] > 0
        assert (tmp_path / "out" / "cells_features.csv").read_text().endswith("\n")
        assert imread(tmp_path / "out" / "cells_overlay.png").ndim == 3
    assert run("segment", path, "-m", model, "-o", tmp_path / "out", "--overlay").returncode == 0
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "cells_features.csv", "cells_labels.tif", "cells_overlay.png", "cells_record.json"]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model that comes along, small and untrained."""
    tiny_models.save_tiny(tmp_path / "bundled" / "nuclei-2d", name="nuclei-2d")
    monkeypatch.setattr(catalogue, "BUNDLED_FOLDER", tmp_path / "bundled")
    return tmp_path / "bundled"


def test_the_demo_says_what_it_did_and_where_to_look(shelf: Path, inputs: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    imsave(inputs / "mine.png", spots(), check_contrast=False)
    assert run_here(["demo", "--picture", str(inputs / "mine.png"), "-o", str(tmp_path / "out")]) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["mine_features.csv", "mine_labels.tif", "mine_overlay.png", "mine_record.json"]
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "mine_record.json").read_text())
    assert f"{record['n_objects']} cell" in said
    assert "64 x 48 pixels, colour" in said
    for name in written:
        assert str(tmp_path / "out" / name) in said


def test_the_demos_own_picture_is_scikit_images(shelf: Path) -> None:
    image = demo.sample()
    assert image.is_rgb
    assert image.data.shape == (3, 512, 512)


def test_models_lists_what_comes_along(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(["models"]) == 0
    said = capsys.readouterr().out
    assert "nuclei-2d" in said
    assert "CC0-1.0" in said


def test_evaluate_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[5:15, 5:15] = 1
    truth[20:30, 5:15] = 2
    for folder, labels in (("truth", truth), ("found", np.where(truth == 2, 0, truth))):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "a.tif", labels)
    arguments = ["evaluate", "--truth", str(tmp_path / "truth"), "--predictions", str(tmp_path / "found"), "--kind",
                 "instances"]
    assert run_here([*arguments, "--json", "-"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["pooled"]["f1@0.5"] == pytest.approx(2 / 3)
    assert run_here(arguments) == 0
    assert "0.6667" in capsys.readouterr().out
    table = tmp_path / "tables" / "scores.csv"
    assert run_here([*arguments[:-1], "classes", "--csv", str(table)]) == 0
    assert "assd" in capsys.readouterr().out
    assert (tmp_path / "found" / "report.html").is_file()
    assert "assd (px), by class" in (tmp_path / "tables" / "report.html").read_text(encoding="utf-8")
    assert table.read_text().splitlines()[1].startswith("a,1,1.0,1.0")
    (tmp_path / "found" / "report.html").unlink()
    (tmp_path / "found" / "report.html").mkdir()  # in the way: costs the report, and nothing else
    assert run_here(arguments) == 0
    told = capsys.readouterr()
    assert "0.6667" in told.out
    assert "--report FILE" in told.err
    assert run_here([*arguments, "--report", str(tmp_path / "found" / "report.html")]) == 2
    assert run_here([*arguments[:-2], "--protocol", "isic"]) == 0
    assert "sensitivity 0.5000" in capsys.readouterr().out
    assert run_here(["evaluate", "--truth", str(tmp_path / "nowhere"), "--predictions", str(tmp_path / "found")]) == 2


def test_progress_is_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_console, "_SECONDS_BETWEEN_LINES", 0.0)
    with ProgressLine("cells.tif") as progress:
        progress(Progress("Segmenting", 31, 120, seconds_left=6.2))
        progress(Progress("Training", 5, 0, "loss 0.3"))
    assert capsys.readouterr().err == "Segmenting cells.tif: 31 of 120, 6 s left\nTraining cells.tif: 5, loss 0.3\n"
    with ProgressLine("cells.tif", is_quiet=True) as progress:
        progress(Progress("Segmenting", 31, 120))
    assert capsys.readouterr().err == ""


def test_a_file_name_cannot_write_on_the_terminal() -> None:
    assert _console.one_line("a\x1b[2Jb\nc.tif") == "a?[2Jb c.tif"
