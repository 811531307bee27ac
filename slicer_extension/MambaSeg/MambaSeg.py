"""3D Slicer module MambaSeg: registration only. What it does is in MambaSegLib."""

from pathlib import Path

from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer

_HELP = """Segments CT and MRI volumes with Mamba networks (U-Mamba, VM-UNet) on an ordinary processor or a graphics
card, and learns from what you correct with the Segment Editor. The computing runs in a process of its own."""
_ACKNOWLEDGEMENT = """U-Mamba: Ma, Li and Wang, arXiv:2401.04722. The hippocampus model was trained on the Medical
Segmentation Decathlon (CC BY-SA 4.0)."""


class MambaSeg(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):  # noqa: ANN001, ANN204 - Slicer's own signature
        """Fill in Slicer's form."""
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MambaSeg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["The mambaseg developers"]
        self.parent.helpText = _(_HELP)
        self.parent.acknowledgementText = _(_ACKNOWLEDGEMENT)


class MambaSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel; until mambaseg is installed, only the card that installs it."""

    def __init__(self, parent=None):  # noqa: ANN001, ANN204 - Slicer's own signature
        """Nothing yet; Slicer calls `setup` when the module is first shown."""
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.panel = None

    def setup(self) -> None:
        """Build the controls from MambaSeg.ui."""
        from MambaSegLib import Installer

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/MambaSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.installer = Installer(self.resourcePath("requirements.txt"))
        self.ui.install.connect("clicked(bool)", lambda *_: self.install())
        self.ui.install_offline.connect("clicked(bool)", lambda *_: self.install_offline())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.on_start_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.on_end_close)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.on_end_close)
        self.show()

    def show(self) -> None:
        """The cards, or what they wait for."""
        is_ready = self.installer.is_ready
        self.ui.setup_card.setVisible(not is_ready)
        for name in ("segment_card", "correct_card", "learn_card"):
            getattr(self.ui, name).setVisible(is_ready)
        if not is_ready:
            self.ui.setup_text.setText(_("MambaSeg needs PyTorch and mambaseg in Slicer's Python. Nothing is installed "
                                         "before you have seen how big it is."))
        elif self.panel is None:
            from MambaSegLib import Panel

            self.panel = Panel(self.ui)
            self.panel.open()

    def install(self, wheels: Path | None = None) -> None:
        """Say what will be installed, ask, and do it; a failure is a sentence."""
        from MambaSegLib.Install import InstallError

        if not slicer.util.confirmOkCancelDisplay(self.installer.consent(wheels), "MambaSeg"):
            return
        try:
            self.installer.install(wheels, self._tell)
        except InstallError as error:
            self.ui.setup_text.setText(str(error))
            slicer.util.errorDisplay(str(error), windowTitle="MambaSeg", detailedText=error.details)
            return
        self.show()

    def install_offline(self) -> None:
        """The same from a folder of wheels."""
        import qt

        folder = qt.QFileDialog.getExistingDirectory(None, _("Folder of wheels"))
        if folder:
            self.install(Path(folder))

    def enter(self) -> None:
        """The module is shown."""
        if self.panel is not None:
            self.panel.open()
            self.ui.editor.installKeyboardShortcuts()

    def exit(self) -> None:
        """Another module is shown; what runs goes on."""
        if self.panel is not None:
            self.ui.editor.setActiveEffectByName("")
            self.ui.editor.uninstallKeyboardShortcuts()
            self.panel.correct.keep_now()

    def cleanup(self) -> None:
        """The module goes away."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def on_start_close(self, caller: object, event: object) -> None:
        """The scene is about to be closed."""
        if self.panel is not None:
            self.panel.close_scene()

    def on_end_close(self, caller: object, event: object) -> None:
        """Another scene is there."""
        if self.panel is not None:
            self.panel.close_scene()
            self.panel.open()

    def _tell(self, line: str) -> None:
        self.ui.setup_text.setText(line)
        slicer.app.processEvents()


class MambaSegTest(ScriptedLoadableModuleTest):
    """Slicer's "Reload and Test"; the tests themselves are in Testing/Python."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        """Segment a made volume with the model that comes along."""
        from MambaSegLib._self_test import run_self_test

        self.setUp()
        self.delayDisplay("Segmenting a small volume")
        run_self_test(slicer.mrmlScene)
        self.delayDisplay("MambaSeg works")
