"""Brings `mambaseg` and PyTorch into Slicer's Python, when the user says so. Needs neither of them itself."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import slicer

__all__ = ["InstallError", "Installer"]

# Measured on Linux, x86_64, Python 3.11: what lies on the disk afterwards, of torch for CPUs and with CUDA's libraries
_TORCH_GB = "0.8 GB, or about 5 GB with the libraries of an NVIDIA card"
_REST_GB = "about 0.8 GB"
_NEEDED_TORCH = ">=2.10"

_NO_EXTENSION = ("PyTorch is not in Slicer yet: install the extension PyTorch in the Extensions Manager and start "
                 "Slicer again, or choose a folder of wheels with torch in it.")
_FAILED = ("{what} could not be installed ({reason}); Slicer is as usable as before. Look at the connection and the "
           "room on the disk, or choose a folder of wheels, and try again.")


class InstallError(Exception):
    """Something could not be installed; one sentence for people. `details` is for a bug report."""

    def __init__(self, sentence: str, details: str = "") -> None:
        super().__init__(sentence)
        self.details = details


class Installer:
    """What is missing, and how it gets there.

    Parameters
    ----------
    requirements : file that names the package; torch comes on its own, so that pip never swaps it
    """

    def __init__(self, requirements: Path | str) -> None:
        self.requirements = Path(requirements)

    @property
    def missing(self) -> list[str]:
        """Packages to install, of torch and mambaseg; empty: all is there."""
        return [name for name in ("torch", "mambaseg") if importlib.util.find_spec(name) is None]

    @property
    def is_ready(self) -> bool:
        """Whether the module can be used."""
        return not self.missing

    def consent(self, wheels: Path | None = None) -> str:
        """What will be done and how big it is, for people to agree to."""
        parts = {"torch": f"PyTorch ({_TORCH_GB})", "mambaseg": f"mambaseg and the libraries it needs ({_REST_GB})"}
        origin = (f"It comes from the folder {wheels}; nothing is downloaded." if wheels is not None
                  else "It is downloaded from the Python Package Index" +
                  (", PyTorch by the extension PyTorch." if "torch" in self.missing else "."))
        listed = "\n".join(f"- {parts[name]}" for name in self.missing)
        return (f"MambaSeg needs what is not in Slicer's Python yet:\n\n{listed}\n\n{origin} It takes some minutes and "
                "changes only Slicer's own Python. Your images are not sent anywhere. Install now?")

    def install(self, wheels: Path | None = None, tell: Callable[[str], None] = str) -> None:
        """Install what is missing. Ask for consent before.

        Parameters
        ----------
        wheels : folder to take everything from, offline; None: the package index
        tell : called with a line before each step

        Raises
        ------
        InstallError : it did not work; Slicer goes on
        """
        if wheels is not None and not any(Path(wheels).glob("*.whl")):
            raise InstallError(f"There are no wheels (*.whl) in {wheels}; choose the folder that they were downloaded "
                               "to.")
        steps = {"torch": self._install_torch, "mambaseg": self._install_package}
        missing = self.missing
        for number, name in enumerate(missing, 1):
            tell(f"Installing {name} ({number} of {len(missing)}); this takes some minutes")
            try:
                steps[name](wheels)
            except InstallError:
                raise
            except (Exception, SystemExit) as error:  # whatever pip, the network or another extension throw
                raise InstallError(_FAILED.format(what=name, reason=_reason(error)), repr(error)) from error
            importlib.invalidate_caches()
        if self.missing:
            raise InstallError(_FAILED.format(what=self.missing[0], reason="it is still not there"))

    def _install_torch(self, wheels: Path | None) -> None:
        if wheels is not None:
            _pip([f"torch{_NEEDED_TORCH}", *_offline(wheels)])
            return
        try:
            torch_utils = importlib.import_module("PyTorchUtils")
        except ImportError as error:
            raise InstallError(_NO_EXTENSION) from error
        logic = torch_utils.PyTorchUtilsLogic()
        if logic.installTorch(askConfirmation=False, torchVersionRequirement=_NEEDED_TORCH) is None:
            raise InstallError(_FAILED.format(what="torch", reason="the extension PyTorch says why in its window"))

    def _install_package(self, wheels: Path | None) -> None:
        with _kept("torch") as constraints:
            _pip(["-r", str(self.requirements), *([] if wheels is None else _offline(wheels))], constraints)


def _pip(arguments: list[str], constraints: Path | None = None) -> None:
    """Slicer's own way to call pip: with progress from 5.12 on, plain before."""
    try:
        packaging: Any = importlib.import_module("slicer.packaging")
    except ImportError:
        extra = [] if constraints is None else ["-c", str(constraints)]
        slicer.util.pip_install([*arguments, *extra])
        return
    packaging.pip_install(arguments, constraints=constraints, requester="MambaSeg")


def _offline(wheels: Path) -> list[str]:
    return ["--no-index", "--find-links", str(wheels)]


@contextmanager
def _kept(name: str) -> Iterator[Path | None]:
    """A constraints file that keeps a package at its version; None where it is not installed."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text(f"{name}=={version}\n", encoding="utf-8")
        yield path


def _reason(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"pip ended with status {error.returncode}"
    return f"{type(error).__name__}: {str(error).splitlines()[0][:160]}" if str(error) else type(error).__name__
