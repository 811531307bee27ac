"""Opens a page in Chromium without a window, as Qt WebEngine brings it, and says what happened.

    python tests/chromium.py PAGE PICTURE [--dark] [--pdf FILE] [--width 1200] [--height 900] [--script JAVASCRIPT]

Prints one JSON object: `console` (messages), `requests` (addresses but for the page itself), `value` (of the script).
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"  # root in a container has none
SCHEME = 0 if "--dark" in sys.argv else 1  # Chromium's numbers
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = f"--disable-gpu --blink-settings=preferredColorScheme={SCHEME}"

from PySide6.QtCore import QMarginsF, QTimer, QUrl  # noqa: E402 - reads the variables above
from PySide6.QtGui import QPageLayout, QPageSize  # noqa: E402
from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineUrlRequestInterceptor  # noqa: E402
from PySide6.QtWebEngineWidgets import QWebEngineView  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402

_LONGEST_MS = 60_000


class Watched(QWebEnginePage):
    """A page whose console is kept."""

    def __init__(self, view):
        super().__init__(view)
        self.console = []

    def javaScriptConsoleMessage(self, level, message, line, source):  # noqa: N802 - Qt's name
        self.console.append(f"{message} ({source}:{line})")


class Gate(QWebEngineUrlRequestInterceptor):
    """Keeps what the page asks for."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def interceptRequest(self, info):  # noqa: N802 - Qt's name
        self.addresses.append(info.requestUrl().toString())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--settle", type=int, default=400, help="ms between two looks that must be the same")
    parser.add_argument("--script", default="document.title")
    parser.add_argument("--pdf", type=Path)
    given = parser.parse_args()
    app = QApplication(sys.argv[:1])
    view = QWebEngineView()
    page, gate, found = Watched(view), Gate(), {}
    view.setPage(page)
    page.profile().setUrlRequestInterceptor(gate)
    view.resize(given.width, given.height)
    view.show()
    address = QUrl.fromLocalFile(str(given.page.resolve()))

    def look(former=None):  # a busy machine draws late: until two looks at something show the same
        image = view.grab().toImage()
        if image != former or is_plain(image):
            QTimer.singleShot(given.settle, lambda: look(image))
        else:
            leave(image)

    def is_plain(image):
        corner = image.pixel(0, 0)
        return all(image.pixel(x, y) == corner for x in range(0, image.width(), 7) for y in range(0, image.height(), 7))

    def leave(image):
        image.save(str(given.picture))
        if given.pdf is None:
            return app.quit()
        page.pdfPrintingFinished.connect(lambda *_: app.quit())
        page.printToPdf(str(given.pdf), QPageLayout(QPageSize(QPageSize.PageSizeId.A4),
                                                    QPageLayout.Orientation.Portrait, QMarginsF(12, 12, 12, 12)))

    def ran(value):
        found["value"] = value
        QTimer.singleShot(given.settle, look)

    page.loadFinished.connect(lambda ok: found.update(ok=ok) or page.runJavaScript(given.script, ran))
    page.load(address)
    QTimer.singleShot(_LONGEST_MS, app.quit)
    app.exec()
    requests = [each for each in gate.addresses if each != address.toString() and not each.startswith("data:")]
    print(json.dumps({**found, "console": page.console, "requests": requests}))


if __name__ == "__main__":
    main()
