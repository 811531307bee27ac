"""What a run will take, asked of the worker process before it begins; only the latest question counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from psygnal import Signal

from mambaseg import words
from napari_mambaseg._segmenter import Order
from napari_mambaseg._session import Run, Session

__all__ = ["Estimator"]


class Estimator:
    """`told` carries a sentence, and whether the work can be done."""

    told = Signal(str, bool)

    def __init__(self, session: Session) -> None:
        self._session = session
        self._run: Run | None = None

    def ask(self, order: Order) -> None:
        """Estimate an order; an earlier question is forgotten."""
        self.cancel()
        run = self._run = self._session.start("estimate", order.write_question, _read)
        run.finished.connect(self._tell)
        run.failed.connect(lambda sentence, details: self._over(sentence, is_fine=False))

    def cancel(self) -> None:
        """Forget the question, so that the process is free for something else."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def _tell(self, estimate: Any) -> None:
        self._over(words.estimate_line(estimate), is_fine=estimate.fits)

    def _over(self, line: str, *, is_fine: bool) -> None:
        self.cancel()
        self.told.emit(line, is_fine)


def _read(answer: dict[str, Any], folder: Path) -> SimpleNamespace:
    return SimpleNamespace(**answer)  # `mambaseg.Estimate` would bring torch into the window's process
