import dataclasses
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from mambaseg import nets
from mambaseg._errors import ModelError
from mambaseg.models import read_model
from mambaseg.models.package import FILES, check_package, load_package, make_test_input, run_test, save_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    tiny_models.save_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(package: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads((package / "model.json").read_text())
    change(values)
    (package / "model.json").write_text(json.dumps(values))


def replace_weights(package: Path, content: bytes) -> None:
    """Other weights with a checksum that fits, so that only the deeper checks can notice."""
    (package / "weights.safetensors").write_bytes(content)
    rewrite(package, lambda values: values.update(checksum=hashlib.sha256(content).hexdigest()))


def weights_with(package: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    content = (package / "weights.safetensors").read_bytes()
    (n_header,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + n_header])
    change(header)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + content[8 + n_header:]


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_model_comes_back_as_it_was(tmp_path: Path, half: bool) -> None:
    model = tiny_models.tiny_model()
    state = tiny_models.tiny_state(model)
    saved = save_package(tmp_path / "tiny", model, state, half=half)
    loaded = load_package(tmp_path / "tiny")
    assert loaded == saved
    assert loaded.plan == model.plan
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == sorted(FILES)
    network = loaded.build()
    assert not network.training
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].half().float() if half else state[key]), key


def test_the_network_of_a_package_computes_what_it_computed_when_saved(package: Path) -> None:
    model = load_package(package)
    assert check_package(model) < 1e-5
    expected = np.load(package / "test_output.npy")
    np.save(package / "test_output.npy", expected + np.float32(0.25))
    assert check_package(model) == pytest.approx(0.25, abs=1e-5)


def test_the_network_is_loaded_once_per_model(package: Path) -> None:
    model = load_package(package)
    assert model.built is model.built
    assert model.build() is not model.built


def test_input_is_made_from_the_seed_alone() -> None:
    model = tiny_models.tiny_model()
    values = make_test_input(model)
    assert values.shape == (1, 3, 8, 8)  # two voxels at the bottom of a network that halves twice
    assert np.array_equal(values, make_test_input(model))
    assert not np.array_equal(values, make_test_input(model, seed=1))
    assert values.std() == pytest.approx(1, abs=0.05)
    assert np.array_equal(values, values.astype(np.float16))


def test_full_resolution_is_compared_under_deep_supervision() -> None:
    model = tiny_models.tiny_model()
    network = nets.build("umamba-bot", **model.network_config | {"deep_supervision": True}).eval()
    assert run_test(network, make_test_input(model)).shape == (1, 3, 8, 8)


def test_the_card_says_what_the_description_says(package: Path) -> None:
    text = (package / "README.md").read_text()
    for part in ("# Tiny tiny", "mambaseg segment IMAGE -m tiny", "red, green, blue", "CC0-1.0", "f1 50: 0.5",
                 "attribution: Nobody / &lt;b>"):
        assert part in text


def test_a_package_in_the_folder_is_replaced_and_other_files_stay(package: Path) -> None:
    (package / "notes.txt").write_text("mine")
    new = tiny_models.save_tiny(package, seed=1)
    assert load_package(package).checksum == new.checksum
    assert (package / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in package.iterdir()) == sorted([*FILES, "notes.txt"])


def test_weights_of_another_network_are_not_saved(tmp_path: Path) -> None:
    model = tiny_models.tiny_model()
    state = tiny_models.tiny_state(model)
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(ModelError, match=r"extra\.weight"):
        save_package(tmp_path / "tiny", model, state)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny").write_text("a file")
    with pytest.raises(ModelError, match="is a file"):
        tiny_models.save_tiny(tmp_path / "tiny")
    assert (tmp_path / "tiny").read_text() == "a file"


WRONG = {
    "schema_version": "1", "name": "../x", "title": 5, "description": None, "network": 7, "network_config": [1],
    "plan": "big", "classes": "many", "channels": [], "kind": "boxes", "licence": None, "decoder": [],
    "training": {"run": [[[[[[[1]]]]]]]}, "scores": 0.9, "parent": {"name": "x"}, "mirror_axes": [5], "checksum": "abc",
}
WRONG_PLAN = {
    "ndim": 4, "patch_size": [10**9, 10**9], "batch_size": 0, "features_per_stage": [], "kernel_sizes": [[3, 3, 3]],
    "strides": "no", "n_blocks_encoder": [10**6], "n_blocks_decoder": [-1], "transpose": [0, 0], "spacing": [0.0, 1.0],
    "unit": "inch", "normalisation": ["os.system"] * 3,
    "use_mask_for_norm": [False], "intensities": [1], "crop_to_nonzero": 1,
    "batch_dice": None, "fit": "stretch", "usual_spacing": [0.5], "orientation": "RAL",
}


def test_every_entry_has_a_wrong_value_here() -> None:
    values = dataclasses.replace(tiny_models.tiny_model(), checksum="0" * 64).to_json()
    assert set(WRONG) == set(values)
    assert set(WRONG_PLAN) == set(values["plan"])


@pytest.mark.parametrize("entry", WRONG)
def test_an_entry_that_is_wrong_or_missing_is_named(package: Path, entry: str) -> None:
    rewrite(package, lambda values: values.update({entry: WRONG[entry]}))
    with pytest.raises(ModelError, match=entry) as caught:
        read_model(package)
    assert "model.json" in str(caught.value)
    rewrite(package, lambda values: values.pop(entry))
    with pytest.raises(ModelError, match=f'lacks the entry "{entry}"'):
        read_model(package)


@pytest.mark.parametrize("entry", WRONG_PLAN)
def test_an_entry_of_the_plan_that_is_wrong_is_named(package: Path, entry: str) -> None:
    rewrite(package, lambda values: values["plan"].update({entry: WRONG_PLAN[entry]}))
    with pytest.raises(ModelError, match=f"plan.{entry}"):
        read_model(package)


def test_an_unknown_entry_is_refused(package: Path) -> None:
    rewrite(package, lambda values: values.update(weights="../../../../etc/passwd"))
    with pytest.raises(ModelError, match='unknown entry "weights"'):
        load_package(package)


def test_a_later_schema_asks_for_an_update(package: Path) -> None:
    rewrite(package, lambda values: values.update(schema_version=2, more="entries"))
    with pytest.raises(ModelError, match="update mambaseg"):
        load_package(package)


@pytest.mark.parametrize("content", [b"", b"{this is not json", b"[" * 100_000, b"\xff\xfe", b"3"])
def test_a_description_that_is_no_json_is_refused(package: Path, content: bytes) -> None:
    (package / "model.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.json"):
        load_package(package)


@pytest.mark.parametrize("name", ["not_json", "empty_object", "wrong_types", "path_escape", "huge_patch",
                                  "deep_nesting"])
def test_hostile_folders_are_refused(shared: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"model\.json"):
        load_package(shared / "data" / "zoo" / "hostile" / f"model_{name}")


def test_an_unknown_network_names_the_nearest(package: Path) -> None:
    rewrite(package, lambda values: values.update(network="umamba_bott"))
    with pytest.raises(ModelError, match=r'umamba_bott.*"umamba-bot"'):
        load_package(package)


@pytest.mark.parametrize("config", [{"os": "system"}, {}, {"n_blocks_encoder": [10**6]}, {"in_channels": 10**9},
                                    {"strides": [[1, 1]]}])
def test_settings_that_the_network_does_not_take_are_refused(package: Path, config: dict[str, Any]) -> None:
    rewrite(package, lambda values: values.update(network_config=values["network_config"] | config if config else {}))
    with pytest.raises(ModelError, match="network_config"):
        load_package(package)


def test_one_changed_byte_of_the_weights_is_noticed(package: Path) -> None:
    content = bytearray((package / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (package / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors.*checksum"):
        load_package(package)


@pytest.mark.parametrize("n_kept", [0, 7, 8, 500, -1])
def test_cut_off_weights_are_refused(package: Path, n_kept: int) -> None:
    replace_weights(package, (package / "weights.safetensors").read_bytes()[:n_kept])
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        load_package(package)


def huge_shape(header: dict[str, Any]) -> None:
    header["decoder.seg_layers.0.bias"]["shape"] = [10**12]


def overlap(header: dict[str, Any]) -> None:
    keys = (key for key in header if key != "__metadata__")
    first, second = sorted(keys, key=lambda key: header[key]["data_offsets"])[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]


def beyond_the_end(header: dict[str, Any]) -> None:
    last = max((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
    header[last]["data_offsets"][1] += 4


def other_dtype(header: dict[str, Any]) -> None:
    header["decoder.seg_layers.0.bias"]["dtype"] = "OBJECT"


def renamed(header: dict[str, Any]) -> None:
    header["somewhere.else"] = header.pop("decoder.seg_layers.0.bias")


def swapped_shape(header: dict[str, Any]) -> None:
    header["decoder.seg_layers.0.bias"]["shape"].append(1)


@pytest.mark.parametrize("change", [huge_shape, overlap, beyond_the_end, other_dtype, renamed, swapped_shape])
def test_a_header_that_contradicts_itself_or_the_network_is_refused(package: Path, change: Callable[..., None]) -> None:
    replace_weights(package, weights_with(package, change))
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        load_package(package)


def test_good_safetensors_of_no_model_say_what_is_missing(package: Path, shared: Path) -> None:
    replace_weights(package, (shared / "data" / "zoo" / "model" / "good.safetensors").read_bytes())
    with pytest.raises(ModelError, match="lacks"):
        load_package(package)


def test_a_test_input_may_be_smaller_than_usual_but_not_larger(tmp_path: Path) -> None:
    model = tiny_models.tiny_model()
    state = tiny_models.tiny_state(model)
    side = make_test_input(model).shape[-1]
    small = save_package(tmp_path / "small", model, state, make_test_input(model, sides=(side // 2,) * 2))
    assert check_package(small) < 1e-4
    np.save(tmp_path / "small" / "test_output.npy", np.load(tmp_path / "small" / "test_output.npy") + 1)
    assert check_package(small) == pytest.approx(1, abs=1e-4)
    large = save_package(tmp_path / "large", model, state, make_test_input(model, sides=(2 * side,) * 2))
    with pytest.raises(ModelError, match=r"test_input\.npy holds .* get a fresh copy"):
        check_package(large)


def test_a_pickle_in_place_of_the_test_input_is_not_opened(package: Path) -> None:
    np.save(package / "test_input.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match=r"test_input\.npy"):
        check_package(load_package(package))


@pytest.mark.parametrize("name", FILES[:3])
def test_a_missing_file_is_named(package: Path, name: str) -> None:
    (package / name).unlink()
    with pytest.raises(ModelError, match=name):
        check_package(load_package(package))


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
import tiny_models
from mambaseg.models.package import FILES, load_package, make_test_input, save_package

folder, n_tries = Path(sys.argv[1]), int(sys.argv[2])
model = tiny_models.tiny_model()
states = [tiny_models.tiny_state(model, seed) for seed in (0, 1)]
arrays = make_test_input(model), np.zeros((1, 3, 8, 8), np.float32)
good = {save_package(folder, model, state, *arrays).checksum for state in states}
random.seed(0)
lost = 0
for _ in range(n_tries):
    child = os.fork()
    if child == 0:
        while True:
            for state in states:
                save_package(folder, model, state, *arrays)
    time.sleep(random.uniform(0.01, 0.15))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lost += load_package(folder).checksum not in good
save_package(folder, model, states[0], *arrays)
lost += sorted(path.name for path in folder.iterdir()) != sorted(FILES) or len(list(folder.parent.iterdir())) != 1
print(f"tried {n_tries}, lost {lost}")
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork are of POSIX systems")
def test_a_program_killed_while_saving_leaves_a_whole_package(tmp_path: Path) -> None:
    tests = str(Path(tiny_models.__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLER, str(tmp_path / "tiny"), "40"], capture_output=True, text=True,
                          timeout=120, check=False, env=os.environ | {"PYTHONPATH": tests, "OMP_NUM_THREADS": "1"})
    assert done.stdout.strip() == "tried 40, lost 0", done.stderr
