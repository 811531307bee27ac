"""Reports as their reader meets them: in a browser, without a network."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import mambaseg
import tiny_models
from mambaseg.io import read
from mambaseg.learn.examples import Example
from mambaseg.learn.finetune import Tuned, UnitScore
from mambaseg.learn.judge import judge
from mambaseg.report import evaluation_page, finetune_page, training_page, write_report
from mambaseg.report.charts import curve, spread
from mambaseg.report.page import number
from mambaseg.report.scores import picked
from mambaseg.train.files import CaseFiles
from mambaseg.train.validation import load_validation, save_validation

SIDE = 48
NAMES = ("one", "two", "three", 'four <b onmouseover="alert(1)">')
HISTORY = [{"iteration": 10 * n, "elapsed_s": n, "rate": 1e-3 / n, "loss": 1 / n, "score": min(n, 8 - n) / 8}
           for n in range(1, 8)]
IN_PAGE = """(() => {
  const count = (what) => document.querySelectorAll(what).length, list = (what) => [...document.querySelectorAll(what)];
  const column = (n) => list(`tbody tr td:nth-child(${n})`).map(cell => cell.textContent);
  const found = {
    lines: list("polyline").map(line => line.points.length), dots: count("circle.dot"), boxes: count("rect.box"),
    rows: count("tbody tr"), first: column(3), pictures: list("img").map(image => image.naturalWidth > 100),
    bold: count("header b, td b, figcaption b b"), text: document.body.innerText};
  document.querySelectorAll("thead button")[2].click();
  found.turned = column(3);
  document.querySelector("#show-truth")?.click();
  found.hidden = list("img.truth").every(image => getComputedStyle(image).display === "none");
  found.left = list("img.prediction").every(image => getComputedStyle(image).display !== "none");
  return JSON.stringify(found);
})()"""


def in_browser(page: Path, **options: str) -> dict[str, Any]:
    """What a page shows in Chromium; nothing may be asked for and nothing complained of."""
    picture = page.with_suffix(".png")
    program = Path(__file__).parents[2] / "chromium.py"
    extra = [part for name, value in options.items() for part in (f"--{name}", value)]
    done = subprocess.run([sys.executable, str(program), str(page), str(picture), "--script", IN_PAGE, *extra],
                          capture_output=True, text=True, timeout=120, check=False)
    if "ImportError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"no Chromium engine can be loaded here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ok"]
    assert told["console"] == []
    assert told["requests"] == []
    assert picture.stat().st_size > 10_000  # a page with pictures, not a blank one
    return dict(json.loads(told["value"]))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes in four pictures, found better and better."""
    random = np.random.default_rng(0)
    for part in ("images", "truth", "found"):
        (tmp_path / part).mkdir()
    for index, name in enumerate(NAMES):
        truth = np.zeros((SIDE, SIDE), np.uint8)
        truth[6:22, 6:22], truth[26:40, 8:40] = 1, 2
        found = truth.copy()
        found[6:20 - 3 * index, 6:22] = 0
        tifffile.imwrite(tmp_path / "truth" / f"{name}.tif", truth)
        tifffile.imwrite(tmp_path / "found" / f"{name}_labels.tif", found)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", (60 * truth + random.integers(0, 40, truth.shape)
                                                               ).astype(np.uint8))
    return tmp_path


def test_an_evaluation_in_a_browser(folders: Path) -> None:
    scores = mambaseg.evaluate(folders / "truth", folders / "found", "classes", distances=True)
    page = evaluation_page(scores, folders / "truth", folders / "found", folders / "images", {"tolerance": 1.0})
    write_report(page, folders / "report.html")
    seen = in_browser(folders / "report.html")
    assert seen["rows"] == 2 * len(NAMES)
    assert seen["boxes"] == seen["dots"] // len(NAMES) > 4
    assert seen["pictures"] == [True] * 9  # best, median and worst: picture, truth, prediction
    assert seen["first"] == sorted(seen["first"])  # worst first
    assert seen["turned"] == sorted(seen["first"], reverse=True)
    assert seen["hidden"]
    assert seen["left"]
    assert seen["bold"] == 0  # a name stays a name
    for words in (*NAMES, number(scores["foreground_mean"]["dice"]), "bootstrap", mambaseg.__version__):
        assert words in seen["text"]


def test_best_median_and_worst(folders: Path) -> None:
    scores = mambaseg.evaluate(folders / "truth", folders / "found", "classes")
    dices = [np.mean([row["dice"] for row in case["classes"].values()]) for case in scores["cases"]]
    order = np.argsort(dices)
    assert dict(picked(scores)) == {"Best": order[-1], "Median": order[2], "Worst": order[0]}
    assert picked({**scores, "cases": scores["cases"][:1]}) == [("Best", 0)]


@pytest.mark.parametrize("options", [{"protocol": "isic"}, {"protocol": "synapse"}, {"kind": "instances"}])
def test_every_kind_of_score_has_a_report(folders: Path, options: dict[str, Any]) -> None:
    scores = mambaseg.evaluate(folders / "truth", folders / "found", **({"kind": "classes"} | options))
    write_report(evaluation_page(scores, folders / "truth", folders / "found", None, options), folders / "r.html")
    text = (folders / "r.html").read_text(encoding="utf-8")
    n_rows = len(NAMES) * (8 if options.get("protocol") == "synapse" else 1)
    assert text.count("<tr>") == n_rows + 1
    assert text.count("<figure>") == 3
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_a_training_in_a_browser(folders: Path) -> None:
    model = tiny_models.tiny_model(("grey",), kind="classes")
    model = dataclasses.replace(model, training={
        "data": {"name": "squares"}, "n_cases": 9, "n_held_out": 4, "iterations": 70, "seconds": 130,
        "history": HISTORY, "recipe": "isic"})
    files = [CaseFiles(name, (folders / "images" / f"{name}.tif",), folders / "truth" / f"{name}.tif")
             for name in NAMES]
    found = [mambaseg.read(folders / "found" / f"{name}_labels.tif").data for name in NAMES]
    scores = mambaseg.evaluate([case.labels for case in files], found, "classes")
    for row, name in zip(scores["cases"], NAMES, strict=True):
        row["case"] = name
    save_validation(folders / "work", scores, files, found)
    write_report(training_page(model, load_validation(folders / "work")), folders / "report.html")
    seen = in_browser(folders / "report.html", pdf=str(folders / "report.pdf"))
    assert seen["lines"] == [len(HISTORY)] * 3
    assert seen["rows"] == 2 * len(NAMES)
    assert seen["pictures"] == [True] * 9
    assert {"front", "back"} <= set(re.findall(r"\w+", seen["text"]))  # classes by name
    for words in ("Best 0.500, after 40 iterations", "2 min", "isic", "squares", "umamba-bot"):
        assert words in seen["text"]
    assert (folders / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_training_without_held_out_cases_shows_its_curves(tmp_path: Path) -> None:
    assert load_validation(tmp_path) is None
    model = dataclasses.replace(tiny_models.tiny_model(), training={
        "n_cases": 3, "n_held_out": 0, "iterations": 70, "seconds": 130, "history": HISTORY[:1]})
    write_report(training_page(model, None), tmp_path / "report.html")
    assert "0 s" not in (tmp_path / "report.html").read_text(encoding="utf-8").split("<section>")[0]


def test_a_fine_tuning_says_what_it_was_worth(folders: Path) -> None:
    model = tiny_models.save_tiny(folders / "tiny", channels=("grey",), kind="classes")
    model = dataclasses.replace(model, training={"iterations": 5, "seconds": 3, "history": HISTORY})
    image = read(folders / "images" / "one.tif")
    verdict = judge(np.array([0.2, 0.3, 0.4, 0.5]), np.array([0.6, 0.8, 0.9, 0.9]))
    units = tuple(UnitScore(f"part {n}", 0.1 * n, 0.2 * n) for n in range(1, 5))
    tuned = Tuned(model, model, {}, verdict, HISTORY, ("Mind <this>.",), units)
    corrections = np.zeros((SIDE, SIDE), np.uint8)
    corrections[5:20, 5:20] = 2
    write_report(finetune_page(tuned, model, [Example(image, corrections)]), folders / "report.html")
    text = (folders / "report.html").read_text(encoding="utf-8")
    for words in (verdict.sentence.replace(">", "&gt;"), "0.35 → 0.80", "Mind &lt;this&gt;.", "part 3: 0.600",
                  "one.tif"):
        assert words in text


def test_ticks_are_round_and_dots_name_their_case() -> None:
    html = spread("Dice", {"liver": [("a", 0.5), ("b", 0.75), ("c", 1.0)], "none": [("a", float("nan"))]}, 0.0, 1.0)
    assert re.findall(r'middle">([\d.]+)<', html) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert re.findall(r"<title>(\w: [\d.]+)</title>", html) == ["a: 0.500", "b: 0.750", "c: 1.000"]
    assert "none" not in html
    x = {case: float(at) for at, case in re.findall(r'cx="([\d.]+)"[^>]*><title>(\w)', html)}
    assert x["b"] == pytest.approx((x["a"] + x["c"]) / 2, abs=0.1)


def test_a_curve_needs_two_points_and_keeps_its_ends() -> None:
    assert curve("loss", [(1, 2.0), (2, float("nan"))], "iteration") == ""
    points = [(float(n), float(n * n)) for n in range(5000)]
    drawn = re.search(r'points="([^"]+)"', curve("loss", points, "iteration"))
    assert drawn is not None
    ys = [float(pair.split(",")[1]) for pair in drawn[1].split()]
    assert len(ys) <= 600
    assert ys == sorted(ys, reverse=True)  # upwards on the screen is a smaller number
