"""Runs in Slicer: `ctest`, or `Slicer --testing --python-script MambaSegSelfTest.py`."""

import importlib.util
import unittest

import slicer


class MambaSegSelfTest(unittest.TestCase):
    """The whole way once, with the model that comes along."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear(0)

    @unittest.skipIf(importlib.util.find_spec("mambaseg") is None, "mambaseg is not installed in Slicer's Python yet")
    def test_segment_and_correct(self) -> None:
        """Segment a made volume, draw in the result, read it back."""
        from MambaSegLib._self_test import run_self_test

        assert run_self_test(slicer.mrmlScene) is not None

    def test_installer_says_what_it_would_do(self) -> None:
        """Needs nothing installed."""
        from pathlib import Path

        from MambaSegLib import Installer

        assert "Install now?" in Installer(Path("requirements.txt")).consent()


if __name__ == "__main__":
    unittest.main()
