"""Packages in the bioimage.io format: validated and run by the format's own libraries, and by torch alone."""

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mambaseg import Image, UserError, nets, segment
from mambaseg.image import Grid
from mambaseg.models import Model
from mambaseg.models.exporter import export_model
from small_models import save_model
from tiny_models import tiny_plan

CT = {"mean": 130.0, "std": 60.0, "percentile_00_5": 40.0, "percentile_99_5": 200.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "objects": ("umamba-bot", {"n_channels": 3, "kind": "instances", "normalisation": ("percentile",) * 3,
                               "about": {"title": "A/B", "licence": "not stated"}}),
    "volume": ("umamba-enc", {"ndim": 3, "transpose": (1, 0, 2), "patch_size": (8, 16, 12), "spacing": (3.0, 1.0, 2.0),
                              "n_networks": 2}),
    "regions": ("nnunet", {"kind": "regions", "spacing": (0.5, 0.5), "unit": "um", "n_channels": 2}),
    "ct": ("nnunet", {"normalisation": ("ct",), "intensities": (CT,), "transpose": (0, 1, 2)}),
    "photo": ("nnunet", {"n_channels": 3, "normalisation": ("imagenet",) * 3}),
    "stretched": ("nnunet", {"n_channels": 3, "normalisation": ("minmax_255",) * 3}),
    "rescaled": ("nnunet", {"normalisation": ("rescale_to_0_1",)}),
}


# Warnings are errors in our tests, and the format's libraries leave files open: they run in a process of their own.
PROGRAM = """if True:
    import json, sys, numpy
    from pathlib import Path
    from bioimageio.core import Sample, Tensor, create_prediction_pipeline, load_model_description, test_model
    from bioimageio.spec import load_description
    found = {}
    for folder in map(Path, sys.argv[1:]):
        described = load_description(folder / "rdf.yaml")
        summaries = described.validation_summary, test_model(folder / "rdf.yaml")
        found[folder.name] = [[summary.status, summary.format()] for summary in summaries]
        description = load_model_description(folder / "rdf.yaml")
        given = numpy.load(folder.with_suffix(".npy"))[None]
        axes = [axis.id for axis in description.inputs[0].axes]
        with create_prediction_pipeline(description) as pipeline:
            outputs = pipeline.predict_sample_without_blocking(
                Sample(members={"image": Tensor.from_numpy(given, dims=axes)}, stat={}, id="one"),
                skip_input_padding=True, skip_output_cropping=True)
        numpy.save(folder.with_suffix(".out.npy"), outputs.members["probabilities"].data.to_numpy()[0])
    Path("found.json").write_text(json.dumps(found))
"""


@dataclass(frozen=True)
class Case:
    """A model, its package, an image of one window (channel, *patch), and what the format's libraries say and find."""

    model: Model
    folder: Path
    image: np.ndarray
    said: list[list[str]]
    found: np.ndarray


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    pytest.importorskip("bioimageio.core", reason="needs bioimageio.core")
    root = tmp_path_factory.mktemp("bioimageio")
    models = {name: save_model(root / f"model-{name}", network, **how) for name, (network, how) in CASES.items()}
    images = {}
    for name, model in models.items():
        export_model(model, "bioimageio", root / name)
        images[name] = np.random.default_rng(3).integers(0, 256, (model.n_channels, *model.plan.patch_size)).astype(
            np.float32)
        np.save(root / f"{name}.npy", images[name])
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, *(root / name for name in CASES)], cwd=root,
                   check=True, capture_output=True)
    said = json.loads((root / "found.json").read_text())
    return {name: Case(model, root / name, images[name], said[name], np.load(root / f"{name}.out.npy"))
            for name, model in models.items()}


@pytest.mark.slow  # the libraries take seconds to import, and test each package in several ways
@pytest.mark.parametrize("name", CASES)
def test_the_formats_own_libraries_accept_it(name: str, cases: dict[str, Case]) -> None:
    (validated, report), (tested, test_report) = cases[name].said
    assert validated in ("passed", "valid-format"), report
    assert tested == "passed", test_report


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_other_programs_find_the_same_probabilities(name: str, cases: dict[str, Case]) -> None:
    case = cases[name]
    plan = case.model.plan
    order = plan.transpose if len(plan.transpose) == plan.ndim else tuple(range(plan.ndim))
    image = np.transpose(case.image, (0, *(1 + np.argsort(order))))
    spacing = tuple(plan.spacing[axis] for axis in np.argsort(order)) if plan.spacing else (1.0,) * plan.ndim
    grid = Grid(image.shape[1:], spacing, plan.unit if plan.spacing else "px")
    ours = segment(Image(image, f"C{'ZYX'[-plan.ndim:]}", grid), case.model, keep_probabilities=True).probabilities
    ours = np.transpose(ours, (0, *(1 + axis for axis in order)))
    assert ours.std() > 0.01  # not the same everywhere
    np.testing.assert_allclose(case.found, ours, atol=1e-4)  # sums and percentiles round differently


def test_torch_alone_runs_it(tmp_path: Path) -> None:
    save_model(tmp_path / "model", "umamba-bot")
    folder = export_model(tmp_path / "model", "bioimageio", tmp_path / "made").folder
    # ours and numba cannot be imported in this process
    code = """if True:
        import sys
        sys.modules |= {"mambaseg": None, "numba": None}
        import numpy, torch
        network = torch.jit.load("weights.pt")
        given = torch.from_numpy(numpy.load("test_input.npy"))
        given = (given - given.mean()) / given.std(correction=0)
        difference = abs(network(given).detach().numpy() - numpy.load("test_output.npy")).max()
        sys.exit(0 if difference < 1e-4 else f"{difference}")
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, check=True)


@pytest.mark.parametrize(("network", "changes"), [
    ("vmunet", {"depths": [1, 1], "depths_decoder": [1, 1], "width": 8}),
    ("vmunetv2", {"depths": [1, 1, 1, 1], "mid_channel": 8}), ("unetv2", {"backbone": "b0"})])
def test_networks_that_scan_in_four_directions_become_torchscript(network: str, changes: dict[str, Any],
                                                                  tmp_path: Path) -> None:
    plan = tiny_plan(2, 3, patch_size=(64, 64))
    config = nets.config_from_plan(plan, 3, 2, network=network) | changes
    built = nets.build(network, **config).eval()
    given = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants, and of TorchScript's age
        traced = torch.jit.trace(built, given, check_trace=False)
        torch.testing.assert_close(traced(given), built(given), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("how", "said"), [
    ({"use_mask_for_norm": (True,)}, "inside the nonzero region only"),
    ({"n_channels": 2, "normalisation": ("zscore", "nonorm")}, r"different ways \(nonorm, zscore\)"),
    ({"n_channels": 2, "normalisation": ("ct", "ct"), "intensities": (CT, CT | {"mean": 1.0})}, "different ranges")])
def test_what_the_format_cannot_say_is_said(how: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "nnunet", **how)
    with pytest.raises(UserError, match=f'Model "small" cannot be exported to the bioimage.io format, .*{said}'):
        export_model(model, "bioimageio", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_trace_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_model(tmp_path / "model", "nnunet")
    monkeypatch.setattr(torch.jit, "trace", lambda network, images, **_: lambda given: network(given) + 0.01)
    with pytest.raises(UserError, match=r"other results as TorchScript \(by 0\.01\)"):
        export_model(model, "bioimageio", tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("licence", ["CC-BY-4.0", "not stated"])
def test_the_licence_is_said_where_the_format_knows_it(licence: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "nnunet", about={"licence": licence})
    folder = export_model(model, "bioimageio", tmp_path / "made").folder
    assert json.loads((folder / "rdf.yaml").read_text()).get("license", "not stated") == licence
    assert licence in (folder / "README.md").read_text()
