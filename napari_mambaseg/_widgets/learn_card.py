"""The card Learn: the button that becomes a bar with a live curve, what came of it, and the models so far."""

from __future__ import annotations

from collections.abc import Sequence

from psygnal import Signal
from qtpy.QtCore import QPointF, QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent, QPen
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from mambaseg import Progress, words
from mambaseg.learn.lineage import Version
from napari_mambaseg._widgets.card import Card, label, push_button

__all__ = ["Curve", "LearnCard"]


class Curve(QWidget):
    """A line through numbers, the newest at the right end."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("curve")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.values: list[float] = []

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Wide and low."""
        return QSize(200, 44)

    def show_values(self, values: Sequence[float], tip: str) -> None:
        """Draw other numbers."""
        self.values = [float(value) for value in values]
        self.setToolTip(tip)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw in the theme's text colour."""
        if len(self.values) < 2:
            return
        low, high = min(self.values), max(self.values)
        width, height = self.width() - 4, self.height() - 6
        points = [QPointF(2 + width * at / (len(self.values) - 1),
                          3 + height * (1 - (value - low) / (high - low if high > low else 1.0)))
                  for at, value in enumerate(self.values)]
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(QPen(self.palette().windowText().color(), 1.6))
        painter.drawPolyline(points)
        painter.end()


class LearnCard(Card):
    """Tells that the user wants to `learn`, `stop`, `keep`, `discard`, or to work with another model (`chosen`)."""

    learn_wanted = Signal()
    stop_wanted = Signal()
    keep_wanted = Signal()
    discard_wanted = Signal()
    chosen = Signal(int)

    def __init__(self, waits_for: str) -> None:
        super().__init__("Learn", "learn_card", waits_for)
        self.learn = push_button("Learn from my corrections", "learn", "Teaches the model what you corrected and "
                                 "confirmed in all open pictures; a few objects in each of several teach more than "
                                 "many in one. You can go on meanwhile (Ctrl+L).")
        self.time = QLabel("Takes about 2 min.")
        self.names = QLineEdit()
        self.names.setObjectName("new_classes")
        self.names.setToolTip("Names of the classes that you painted and the model lacks, with commas between.")
        self.names.hide()
        self.bar = QProgressBar()
        self.bar.setObjectName("learning")
        self.bar.setTextVisible(False)
        self.line = label(name="learning_line")
        self.curve = Curve()
        self.stop = push_button("Stop and keep the best", "stop", "Ends learning; the best model so far is judged.")
        self.scores = label(name="scores")
        self.verdict = label(name="verdict")
        self.keep = push_button("Keep", "keep", "Work with the new model from now on; the old one stays in the list.")
        self.discard = push_button("Go back", "discard", "Throw the new model away and stay with the old one.")
        self.compare = QLabel("hold B to compare")
        self.compare.setObjectName("compare")
        self.message = label(name="learn_message")
        self.models = QLabel()
        self.models.setObjectName("models")
        self.models.setWordWrap(True)
        self.models.setTextFormat(Qt.TextFormat.RichText)
        self.models.setTextInteractionFlags(Qt.TextInteractionFlag.LinksAccessibleByMouse
                                            | Qt.TextInteractionFlag.LinksAccessibleByKeyboard)
        self.models.setToolTip("Models of this project, each made from the one before it; click one to work with it.")
        self._losses: list[float] = []
        self._lay_out()
        for button, signal in ((self.learn, self.learn_wanted), (self.stop, self.stop_wanted),
                               (self.keep, self.keep_wanted), (self.discard, self.discard_wanted)):
            button.clicked.connect(lambda *_, signal=signal: signal.emit())
        self.models.linkActivated.connect(lambda link: self.chosen.emit(int(link)))
        self.show_idle()
        self.show_models((), None)

    @property
    def is_busy(self) -> bool:
        """Whether the bar is shown in place of the button."""
        return not self.stop.isHidden()

    def show_busy(self) -> None:
        """Learning has begun."""
        self._losses = []
        self.curve.show_values((), "")
        self._show(is_busy=True, has_result=False)
        self.stop.setEnabled(True)
        self.bar.setRange(0, 0)
        self.line.setText("Preparing…")
        self.stop.setFocus()

    def show_progress(self, update: Progress) -> None:
        """How far it is; the curve shows how well it does."""
        if update.stage == "Training":
            if update.total:
                self.bar.setRange(0, update.total)
                self.bar.setValue(update.done)
            loss = words.loss(update)
            if loss is not None:
                self._losses.append(loss)
                self.curve.show_values(self._losses, "Error on the corrections, the lower the better.")
        else:
            self.bar.setRange(0, 0)
        self.line.setText(words.learning_sentence(update, bool(self._losses)))

    def show_stopping(self) -> None:
        """The click has been heard."""
        self.stop.setEnabled(False)
        self.line.setText("Stopping…")

    def show_idle(self, message: str = "") -> None:
        """Nothing is learned at the moment."""
        self._show(is_busy=False, has_result=False)
        self.message.setText(message)
        self.message.setVisible(bool(message))

    def show_result(self, scores: Sequence[str], verdict: str, *, is_better: bool) -> None:
        """What came of it: lines with numbers, and whether to keep it; the better choice is the default button."""
        self._show(is_busy=False, has_result=True)
        self.message.hide()
        self.scores.setText("\n".join(scores))
        self.scores.setVisible(bool(self.scores.text()))
        self.verdict.setText(verdict)
        for button, is_default in ((self.keep, is_better), (self.discard, not is_better)):
            button.setDefault(is_default)
            button.setStyleSheet("font-weight: bold" if is_default else "")
        (self.keep if is_better else self.discard).setFocus()

    def show_compare(self, can_compare: bool) -> None:
        """Whether there is something to look at in turn."""
        self.compare.setVisible(can_compare)

    def ask_names(self, labels: Sequence[int]) -> None:
        """Ask for names of classes that the model lacks; none hides the field."""
        if labels and self.names.isHidden():
            self.names.clear()
        self.names.setVisible(bool(labels))
        said = ", ".join(map(str, labels))
        self.names.setPlaceholderText(f"name of label {said}" if len(labels) == 1 else f"names of labels {said}")

    def show_models(self, chain: Sequence[Version], current: int | None) -> None:
        """The way to the current model, as links to the others."""
        parts = [f"<b>{version.title}</b>" if version.number == current else
                 f'<a href="{version.number}" style="color: #56b4e9">{version.title}</a>' for version in chain]
        self.models.setText(f"Models: {' &gt; '.join(parts)}")
        self.models.setVisible(len(parts) > 1)

    def _show(self, *, is_busy: bool, has_result: bool) -> None:
        for widget in (self.learn, self.time):
            widget.setVisible(not is_busy)
        for widget in (self.bar, self.line, self.curve, self.stop):
            widget.setVisible(is_busy)
        for widget in (self.scores, self.verdict, self.keep, self.discard):
            widget.setVisible(has_result)
        self.compare.setVisible(False)
        self.learn.setDefault(not has_result)

    def _lay_out(self) -> None:
        """No row is wider than napari's narrowest dock."""
        end = QHBoxLayout()
        for widget in (self.keep, self.discard):
            end.addWidget(widget)
        end.addStretch()
        content: QVBoxLayout = self.content
        for widget in (self.learn, self.time, self.names, self.bar, self.line, self.curve, self.stop, self.scores,
                       self.verdict):
            content.addWidget(widget)
        content.addLayout(end)
        content.addWidget(self.compare)
        content.addWidget(self.message)
        content.addWidget(self.models)
