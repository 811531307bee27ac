"""The guarded door: what it takes, and hostile files, which are real and would run if anything ran them."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import official
from mambaseg._errors import ModelError
from mambaseg.models.importer.checkpoint import read_checkpoint, required_torch


def weights() -> official.State:
    return {"first.weight": torch.arange(6.0).reshape(2, 3), "second.running_mean": torch.ones(3)}


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def bombs(trace: Path) -> dict[str, object]:
    """Objects whose unpickling writes the file `trace`."""
    write = f"open({str(trace)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {trace}"),
        "builtins.eval": Calls(eval, write),
        "builtins.exec": Calls(exec, write),
        "subprocess": Calls(subprocess.check_output, ["touch", str(trace)]),
        "nested reduce": Calls(np.dtype, Calls(os.system, f"touch {trace}")),
        "in the weights": {"first.weight": torch.ones(2), "second.weight": Calls(eval, write)},
        "in the log": {"network_weights": weights(), "logging": [Calls(os.system, f"touch {trace}")]},
        "pathlib": Calls(Path.touch, trace),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "pickle in pickle": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {trace}"))),
    }


def save_plain(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_old(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [save_plain, save_zip, save_old])
@pytest.mark.parametrize("name", bombs(Path("trace")))
def test_a_hostile_pickle_is_refused_and_leaves_no_trace(tmp_path: Path, name: str, save) -> None:
    trace, path = tmp_path / "trace", tmp_path / "model.pth"
    save(bombs(trace)[name], path)
    with pytest.raises(ModelError, match=r"model\.pth.*nothing in (it|the file) was run"):
        read_checkpoint(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pth"]


@pytest.mark.parametrize("save", [save_plain, save_zip])
def test_the_same_pickle_does_harm_elsewhere(tmp_path: Path, save) -> None:
    """Otherwise the test above would show nothing."""
    save(bombs(tmp_path / "trace")["os.system"], tmp_path / "model.pth")
    if save is save_plain:
        pickle.loads((tmp_path / "model.pth").read_bytes())
    else:
        torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "trace").exists()


@pytest.mark.parametrize(("name", "said"), [("os.system", "posix.system|nt.system"), ("builtins.eval", '"eval"'),
                                            ("pickle in pickle", "_pickle.loads|pickle.loads")])
@pytest.mark.parametrize("save", [save_plain, save_zip, save_old])
def test_the_refused_name_is_said(tmp_path: Path, name: str, said: str, save) -> None:
    save(bombs(tmp_path / "trace")[name], tmp_path / "model.pth")
    with pytest.raises(ModelError, match=said):
        read_checkpoint(tmp_path / "model.pth")


def test_an_environment_variable_does_not_open_the_door(tmp_path: Path) -> None:
    save_zip(bombs(tmp_path / "trace")["os.system"], tmp_path / "model.pth")
    code = "import sys; from mambaseg.models.importer import read_checkpoint; read_checkpoint(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.pth"], capture_output=True, text=True,
                          timeout=120, check=False, env=os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"})
    assert "ModelError" in done.stderr
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["pickle_checkpoint.pth", "pickle_checkpoint_zip.pt", "zip_bomb.zip",
                                  "object_pickle.npy", "header_huge.safetensors", "zip_slip.zip", "tar_slip.tar.gz"])
def test_hostile_files_of_the_zoo_are_refused(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZOO_PICKLE_RAN", raising=False)
    with pytest.raises(ModelError, match=name):
        read_checkpoint(shared / "data" / "zoo" / "hostile" / name)
    assert "ZOO_PICKLE_RAN" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_good_safetensors_are_no_checkpoint(shared: Path) -> None:
    with pytest.raises(ModelError, match="no checkpoint that torch has saved"):
        read_checkpoint(shared / "data" / "zoo" / "model" / "good.safetensors")


def test_ten_gigabytes_of_zeros_in_a_small_zip_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    save_zip(weights(), path)
    block = bytes(2**20)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("model/data/9", "w") as entry:
        for _ in range(100):
            entry.write(block)
    content = path.read_bytes()  # the directory claims 10 GB for what is 100 MB
    position = content.rindex(b"PK\x01\x02")
    assert struct.unpack_from("<I", content, position + 24) == (100 * 2**20,)
    path.write_bytes(content[:position + 24] + struct.pack("<I", 4 * 10**9) + content[position + 28:])
    with pytest.raises(ModelError, match=r"4,000 MB in .* was not opened"):
        read_checkpoint(path)


MEMORY = """
import resource, sys
from mambaseg._errors import ModelError
from mambaseg.models.importer import read_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_checkpoint(sys.argv[1])
except ModelError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def claims(numel: int, is_old: bool) -> bytes:
    """A checkpoint whose pickle claims a tensor of `numel` values, while the file holds six."""
    buffer = io.BytesIO()
    torch.save({"first.weight": torch.arange(6.0)}, buffer, _use_new_zipfile_serialization=not is_old)
    if is_old:
        content = buffer.getvalue()
        old, new = b"K\x06", b"\x8a\x06" + numel.to_bytes(6, "little")
        assert content.count(old) >= 2
        return content.replace(old, new)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(out, "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = content.replace(b"K\x06", b"\x8a\x06" + numel.to_bytes(6, "little"))
            changed.writestr(entry.filename, content)
    return out.getvalue()


@pytest.mark.skipif(os.name == "nt", reason="the resource module is of POSIX systems")
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("numel", [10**12, 10**7])
def test_absurd_sizes_take_no_memory(tmp_path: Path, is_old: bool, numel: int) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(claims(numel, is_old))
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, timeout=120,
                          check=False)
    grown, message = done.stdout.split(maxsplit=1)
    assert int(grown) < 200_000  # KiB
    assert "model.pth" in message


def test_a_tensor_that_repeats_one_value_is_refused(tmp_path: Path) -> None:
    torch.save({"first.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"model\.pth"):
        read_checkpoint(tmp_path / "model.pth")
    torch.save({"first.weight": torch.zeros(1).expand(1000, 1000)}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r'"first\.weight" claims the shape \(1000, 1000\), but holds only 4 bytes'):
        read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [
    b"", b"\x80", b"\x80\x02", b"no pickle at all", b"PK\x03\x04", pickle.dumps({"a": 1}), pickle.dumps([1, 2]),
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc."])
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.pth"):
        read_checkpoint(tmp_path / "model.pth")


def test_a_file_cut_off_anywhere_or_with_a_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    rng = np.random.default_rng(0)
    tried = 0
    for save in (save_zip, save_old):
        save(official.CONTAINERS["vm latest"](weights()), path)
        whole = path.read_bytes()
        for _ in range(150):
            content = bytearray(whole)
            for position in rng.integers(0, len(whole), rng.integers(1, 4)):
                content[position] = rng.integers(256)
            path.write_bytes(content[:rng.integers(1, len(whole))] if rng.random() < 0.3 else content)
            try:
                read_checkpoint(path)
            except ModelError as error:
                assert str(path) in str(error)  # noqa: PT017  # either way is right
            tried += 1
    assert tried == 300


def test_a_missing_file_and_an_old_tar_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.pth.*No such file"):
        read_checkpoint(tmp_path / "nothing.pth")
    with tarfile.open(tmp_path / "old.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(ModelError, match="no checkpoint"):
        read_checkpoint(tmp_path / "old.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {"state_dict": {}}, {3: torch.ones(2)}])
def test_a_file_without_weights_says_where_they_were_looked_for(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"holds no weights.*model_state_dict"):
        read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("value", [torch.ones(2, 2).to_sparse(), torch.ones(2, dtype=torch.complex64),
                                   torch.empty(2, device="meta"), "text"])
def test_weights_that_are_no_plain_tensors_are_named(tmp_path: Path, value: object) -> None:
    torch.save({"state_dict": {"first.weight": value}}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"first\.weight"):
        read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("save", [save_zip, save_old])
@pytest.mark.parametrize("container", official.CONTAINERS)
def test_weights_are_found_in_every_container_and_lose_their_wrappers(tmp_path: Path, container: str, save) -> None:
    save(official.CONTAINERS[container](weights()), tmp_path / "model.pth")
    found = read_checkpoint(tmp_path / "model.pth").weights
    assert set(found) == set(weights())
    for key, value in weights().items():
        assert torch.equal(found[key].float(), value)


def test_names_of_our_networks_are_no_prefix(tmp_path: Path) -> None:
    state = {f"vmunet.{key}": value for key, value in weights().items()}
    torch.save(state, tmp_path / "model.pth")
    assert set(read_checkpoint(tmp_path / "model.pth").weights) == set(state)


def test_nnunets_file_keeps_weights_plan_and_axes_only(tmp_path: Path) -> None:
    record, _ = official.fixture("umamba_enc_2d_v2_tiny_chan") or pytest.fail("the fixture travels with the tests")
    torch.save(official.nnunet_file(record, weights()), tmp_path / "checkpoint_final.pth")
    found = read_checkpoint(tmp_path / "checkpoint_final.pth")
    assert set(found.weights) == set(weights())
    assert found.plans == official.flat_plans(record["args"])
    assert found.dataset["labels"] == {"background": 0, "organ 1": 1, "organ 2": 2}
    assert (found.configuration, found.trainer, found.mirror_axes) == ("2d", "nnUNetTrainerUMambaBot", (0, 1))


def test_numpy_1_wrote_its_numbers_under_other_names(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"network_weights": weights(), "logging": [np.float64(0.5), np.array([1.0])]}, path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as changed:
        for entry in archive.infolist():
            content = archive.read(entry)
            assert entry.filename != "model/data.pkl" or b"numpy._core.multiarray" in content
            changed.writestr(entry.filename, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    path.write_bytes(out.getvalue())
    assert set(read_checkpoint(path).weights) == set(weights())


def test_a_plan_without_end_is_refused(tmp_path: Path) -> None:
    plans: list[object] = []
    for _ in range(30):
        plans = [plans, plans]
    torch.save({"network_weights": weights(), "init_args": {"plans": {"a": plans}}}, tmp_path / "model.pth")
    with pytest.raises(ModelError, match="plan in it cannot be understood"):
        read_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize(("version", "is_enough"), [("2.9.1", False), ("1.13.1+cu117", False), ("2.10.0", True),
                                                    ("2.13.0+cpu", True), ("3.0", True)])
def test_torch_before_2_10_does_not_read_checkpoints(version: str, is_enough: bool) -> None:
    if is_enough:
        required_torch(version)
        return
    with pytest.raises(ModelError, match=r'pip install "torch>=2\.10"'):
        required_torch(version)
