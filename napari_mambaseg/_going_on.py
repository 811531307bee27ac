"""Going on with an image that was corrected before, and taking over labels that did not come from the panel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.layers import Labels
from psygnal import Signal

from mambaseg import UserError, words
from mambaseg.learn import Project, ProjectImage, identify, project_of, recent_projects
from mambaseg.models import read_model, resolve
from napari_mambaseg._adapt import labels_shape, to_image
from napari_mambaseg._corrections import Corrector
from napari_mambaseg._layers import labels_layer
from napari_mambaseg._segmenter import Order
from napari_mambaseg._widgets.correct_card import CorrectCard
from napari_mambaseg._writer import RECORD

__all__ = ["GoingOn", "record_setting"]

_MOST_LOOKED_UP_BYTES = 2**28  # of an image, to see whether it was corrected before


class GoingOn:
    """Offers both in the card Correct; `failed` carries a sentence, and details for a bug report.

    Parameters
    ----------
    order_of, use_model : as for `Teaching`
    """

    failed = Signal(str, str)

    def __init__(self, viewer: Any, card: CorrectCard, corrector: Corrector, order_of: Callable[[], Order | None],
                 use_model: Callable[[str, bool], None]) -> None:
        self._viewer = viewer
        self._card = card
        self._corrector = corrector
        self._order_of = order_of
        self._use_model = use_model
        self._found: tuple[Order, Project, ProjectImage] | None = None  # what could be gone on with
        self._recent: Path | None = None  # an image of the last project, while none is open
        self._goes_on = False
        card.go_on.clicked.connect(lambda: self.go_on())
        card.adopt.clicked.connect(lambda: self._adopt())

    def look(self) -> None:
        """Another image is chosen: it may have been corrected before."""
        self._found = None
        self.offer()
        order = self._order_of()
        if order is None:
            self._offer_recent()
            return
        is_open = any(each.order.source.name == order.source.name for each in self._corrector.pictures)
        if is_open or order.source.is_lazy or order.source.array.nbytes > _MOST_LOOKED_UP_BYTES:
            return

        def find() -> tuple[Project, ProjectImage] | None:
            try:
                is_known = project_of(identify(to_image(order.source))) is not None
            except UserError:  # the card Segment says what is wrong with the image
                return None
            return self._corrector.open(order) if is_known else None

        self._corrector.background.do(find, lambda found: self._on_looked(order, found), self.failed.emit)

    def forget(self) -> None:
        """There is something to correct already."""
        self._found, self._recent = None, None
        self.offer()

    def go_on(self) -> None:
        """Show the labels as they were left."""
        if self._found is None:
            if self._recent is not None:
                self._goes_on = True
                self._viewer.open(self._recent)
            return
        order, project, image = self._found
        self._found = None
        name = str(project.settings.get("model") or order.model_name)
        try:
            order = Order(order.source, order.part, read_model(resolve(name)), name, order.focus)
        except UserError:  # that model has gone; the chosen one will do
            name = order.model_name
        image.kind = order.model.kind
        layer = labels_layer(image.labels(), order.source, order.result_name, order.model.kind)
        record = project.settings.get(record_setting(image))
        layer.metadata = {RECORD: record} if record else {}
        self._viewer.add_layer(layer)
        self._corrector.resume(layer, order, image, project)
        self._use_model(name, False)

    def _on_looked(self, order: Order, found: tuple[Project, ProjectImage] | None) -> None:
        if found is None or any(each.image.identity == found[1].identity for each in self._corrector.pictures):
            self._goes_on = False
            return
        self._found = (order, *found)
        if self._goes_on:
            self._goes_on = False
            self.go_on()
            return
        self.offer()

    def _offer_recent(self) -> None:
        """With no image open: the one that was corrected last, if its file is still there."""
        self._recent = None
        for recent in recent_projects()[:1]:
            try:
                project = Project.open(recent.folder)
            except UserError:
                continue
            path = str(project.settings.get("path") or "")
            project.close()
            self._recent = Path(path) if path and Path(path).exists() else None
        self.offer()

    def offer(self) -> None:
        """Show what can be gone on with, or taken over."""
        card, stray = self._card, self._stray_layer()
        is_idle = not self._corrector.pictures
        line = ""
        if self._found is not None:
            saved_s = self._found[1].saved_at_s
            on_day = "" if saved_s is None else f" on {words.day(saved_s)}"
            line = f"You have corrected this picture before{on_day}."
        elif self._recent is not None and is_idle:
            line = f"Last time you corrected {self._recent.name}."
        card.resume_line.setText(line)
        card.resume_line.setVisible(bool(line))
        card.go_on.setVisible(bool(line))
        card.adopt.setVisible(stray is not None)
        card.resume.setVisible(bool(line) or stray is not None)

    def _stray_layer(self) -> Any:
        """The active layer, where it holds labels that nobody keeps."""
        active = self._viewer.layers.selection.active
        if not isinstance(active, Labels) or not active.editable or self._order_of() is None:
            return None
        return None if active in [each.layer for each in self._corrector.pictures] else active

    def _adopt(self) -> None:
        """Have labels corrected that did not come from the panel."""
        layer, order = self._stray_layer(), self._order_of()
        if layer is None or order is None:
            return
        shape = labels_shape(order.source)
        if layer.data.shape != shape:
            self.failed.emit(f"{layer.name} is {_times(layer.data.shape)} voxels, but {order.source.name} is "
                             f"{_times(shape)}; choose the labels that belong to the image.", "")
            return
        self._corrector.take(layer, order, layer.data)


def record_setting(image: ProjectImage) -> str:
    """Under which name a project keeps the record of the run that an image's labels began with."""
    return f"record of {image.identity.checksum}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
