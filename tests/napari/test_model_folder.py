"""A model folder as nnU-Net leaves it, chosen in the file dialog with the keyboard, becomes a model that segments."""

from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication, QFileDialog, QLineEdit

import mambaseg
import official


def test_nnunet_folder_through_the_file_dialog(window: Any, qtbot: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder = official.model_folder(tmp_path, {"fold_0": 1.0})
    monkeypatch.setattr("napari_mambaseg.panel.models_folder", lambda: tmp_path / "models")
    shown = window(show=True)
    seen = []

    def choose() -> None:
        dialog = QApplication.activeModalWidget()
        if not isinstance(dialog, QFileDialog):
            QTimer.singleShot(100, choose)
            return
        seen.append(dialog.windowTitle())
        name = dialog.findChild(QLineEdit)
        name.setText(str(folder))
        qtbot.keyClick(name, Qt.Key.Key_Return)

    QTimer.singleShot(100, choose)
    shown["model"].setFocus()
    qtbot.keyClick(shown["model"], Qt.Key.Key_End)  # the last entry; the dialog opens and is waited for
    assert seen == ["A model package, or an nnU-Net model folder"]
    qtbot.waitUntil(lambda: shown.panel.segment.model.model.folder == tmp_path / "models" / folder.name,
                    timeout=300_000)
    model = shown.panel.segment.model.model
    assert shown["model"].currentText() == model.title
    assert not shown["cancel"].isVisible()
    values = np.random.default_rng(0).random((model.n_channels, 48, 40)).astype(np.float32)
    shown.viewer.add_image(values, axis_labels=("c", "y", "x"))
    layer = shown.segment()
    np.testing.assert_array_equal(
        layer.data, mambaseg.segment(mambaseg.Image.from_array(values, "CYX"), str(model.folder)).labels)
