"""Setting up inside Slicer: nothing without consent, and a failure is a sentence."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

import slicer
import slicer_stand_in
from MambaSegLib.Install import Installer, InstallError

REQUIREMENTS = Path(__file__).parents[2] / "slicer_extension/MambaSeg/Resources/requirements.txt"

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="is about a torch that is there")


@pytest.fixture
def host(monkeypatch):
    """A Slicer without torch and mambaseg; what is asked of pip is noted, and believed."""
    calls, there = [], set()

    def pip_install(arguments, constraints=None, **_):
        text = "" if constraints is None else Path(constraints).read_text()
        calls.append((list(arguments), text))
        there.add("mambaseg" if "-r" in arguments else "torch")

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation, torchVersionRequirement):  # noqa: N802 - the extension's own name
            calls.append(("the extension PyTorch", torchVersionRequirement))
            there.add("torch")
            return object()

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name in there else None)
    monkeypatch.setitem(sys.modules, "slicer.packaging", types.SimpleNamespace(pip_install=pip_install))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    return types.SimpleNamespace(calls=calls, there=there, pip_install=pip_install)


def test_says_what_it_will_do_and_how_big_it_is(host, tmp_path):
    installer = Installer(REQUIREMENTS)
    assert installer.missing == ["torch", "mambaseg"]
    text = installer.consent()
    assert "PyTorch (0.8 GB" in text
    assert "mambaseg and the libraries it needs (about 0.8 GB)" in text
    assert "Python Package Index" in text
    assert f"from the folder {tmp_path}; nothing is downloaded" in installer.consent(tmp_path)
    host.there.add("torch")
    assert "PyTorch" not in installer.consent()
    assert host.calls == []


@needs_torch
def test_torch_comes_from_its_extension_and_is_not_replaced(host):
    installer, lines = Installer(REQUIREMENTS), []
    installer.install(tell=lines.append)
    assert host.calls[0] == ("the extension PyTorch", ">=2.10")
    arguments, constraints = host.calls[1]
    assert arguments == ["-r", str(REQUIREMENTS)]
    assert constraints.startswith("torch==2.")  # the one that is installed here
    assert installer.is_ready
    assert lines[0].startswith("Installing torch (1 of 2)")
    installer.install()
    assert len(host.calls) == 2


def test_offline_from_a_folder_of_wheels(host, tmp_path):
    with pytest.raises(InstallError, match=r"There are no wheels \(\*\.whl\) in"):
        Installer(REQUIREMENTS).install(tmp_path)
    (tmp_path / "mambaseg-0.1.0-py3-none-any.whl").touch()
    Installer(REQUIREMENTS).install(tmp_path)
    assert all({"--no-index", "--find-links", str(tmp_path)} <= set(arguments) for arguments, _ in host.calls)


@needs_torch
def test_slicer_before_5_12(host, monkeypatch):
    seen = []
    monkeypatch.delitem(sys.modules, "slicer.packaging")
    monkeypatch.setattr(slicer.util, "pip_install",
                        lambda arguments: (seen.append(arguments), host.there.add("mambaseg")))
    Installer(REQUIREMENTS).install()
    assert seen[0][:2] == ["-r", str(REQUIREMENTS)]
    assert seen[0][2] == "-c"


@pytest.mark.parametrize(("error", "sentence"), [
    (subprocess.CalledProcessError(1, "pip"), "pip ended with status 1"),
    (OSError(28, "No space left on device"), "No space left on device"),
    (SystemExit(2), "SystemExit: 2"),
])
def test_failure_is_a_sentence_and_can_be_tried_again(host, monkeypatch, error, sentence):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_install", fail)
    installer = Installer(REQUIREMENTS)
    with pytest.raises(InstallError) as caught:
        installer.install()
    assert sentence in str(caught.value)
    assert "Slicer is as usable as before" in str(caught.value)
    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_install", host.pip_install)
    installer.install()
    assert installer.is_ready


def test_without_the_extension_pytorch_it_says_where_to_get_it(host, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(InstallError, match="install the extension PyTorch in the Extensions Manager"):
        Installer(REQUIREMENTS).install()


def test_panel_asks_before_it_installs(scene, root, host, monkeypatch):
    module = slicer_stand_in.open_module(root / "slicer_extension/MambaSeg/MambaSeg.py")
    widget, top = slicer_stand_in.open_widget(module)
    assert widget.panel is None
    assert not widget.ui.setup_card.isHidden()
    assert widget.ui.segment_card.isHidden()
    asked, told = [], []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, title: asked.append(text))
    widget.ui.install.click()
    assert "Install now?" in asked[0]
    assert host.calls == []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, title: True)
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: told.append(text))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    widget.ui.install.click()
    assert told[0].startswith("PyTorch is not in Slicer yet")
    assert widget.ui.setup_text.text == told[0]
    widget.cleanup()
    top.close()
