"""Which model: one that comes along, one used lately, a folder; and in words what it is for."""

from __future__ import annotations

from typing import Any

from psygnal import Signal
from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QPushButton, QWidget

from mambaseg import words
from mambaseg.models import BUNDLED_FOLDER, bundled, listed
from napari_mambaseg._recent import recent_models
from napari_mambaseg._widgets.card import label
from napari_mambaseg._widgets.narrow_box import NarrowBox

__all__ = ["ModelChoice"]

_FROM_FOLDER = "From a folder…"
_FIRST = "nuclei-2d"  # for those who have not chosen yet


class ModelChoice(QWidget):
    """`chosen` is emitted when another model is meant, `folder_chosen` with a folder that the user pointed at."""

    chosen = Signal()
    folder_chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.box = NarrowBox()
        self.box.setObjectName("model")
        self.box.setToolTip("The trained network. “From a folder…” opens your own model package or an nnU-Net "
                            "model folder.")
        self.about = QPushButton()
        self.about.setObjectName("about_model")
        self.about.setText("i")
        self.about.setCheckable(True)
        self.about.setFixedWidth(28)
        self.about.setToolTip("What this model is made for, what it was trained on, how well it does, its licence.")
        self.about.setAccessibleName("About the model")
        self.line = label(name="model_line")
        self.card = label(name="model_card")
        self.card.hide()
        title = QLabel("Model")
        title.setBuddy(self.box)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setVerticalSpacing(2)
        layout.addWidget(title, 0, 0)
        layout.addWidget(self.box, 0, 1)
        layout.addWidget(self.about, 0, 2)
        layout.addWidget(self.line, 1, 0, 1, 3)
        layout.addWidget(self.card, 2, 0, 1, 3)
        layout.setColumnStretch(1, 1)
        self._models: list[Any] = []
        self._index = 0
        self.fill()
        self.box.currentIndexChanged.connect(self._on_index)
        self.box.activated.connect(self._on_activated)
        self.about.toggled.connect(self.card.setVisible)

    @property
    def model(self) -> Any:
        """The chosen model's description."""
        return self._models[self._index]

    @property
    def name(self) -> str:
        """What the core knows the chosen model by: a bundled name, or a folder."""
        return _name(self.model)

    def fill(self, wanted: str | None = None) -> None:
        """List the models anew.

        Parameters
        ----------
        wanted : name or folder of the model to choose; None keeps the choice
        """
        wanted = wanted or (self.name if self._models else next(iter(recent_models()), _FIRST))
        self._models = list(listed((*bundled(), wanted, *recent_models())).values())
        self.box.blockSignals(True)
        self.box.clear()
        self.box.addItems(words.model_titles(self._models))
        self.box.insertSeparator(len(self._models))
        self.box.addItem(_FROM_FOLDER)
        self.box.blockSignals(False)
        known = [_name(model) for model in self._models]
        self.box.setCurrentIndex(known.index(wanted) if wanted in known else 0)
        self._on_index(self.box.currentIndex())

    def _on_index(self, index: int) -> None:
        if not 0 <= index < len(self._models):
            return
        self._index = index
        self.line.setText(words.model_line(self.model))
        self.card.setText(words.model_card(self.model))
        self.chosen.emit()

    def _on_activated(self, index: int) -> None:
        if index < len(self._models):
            return
        self.box.setCurrentIndex(self._index)
        folder = QFileDialog.getExistingDirectory(self, "A model package, or an nnU-Net model folder")
        if folder:
            self.folder_chosen.emit(folder)


def _name(model: Any) -> str:
    """What the core finds a model by."""
    return str(model.name) if model.folder == BUNDLED_FOLDER / model.name else str(model.folder)
