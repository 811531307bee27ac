"""What PyPI's slicer-core leaves out of 3D Slicer, imitated as far as the module MambaSeg needs it.

Real: the scene and its nodes, the logics, `slicer.util`, Qt (PySide6). Imitated: PythonQt's habits, ctk's and MRML's
widgets, `slicer.app`, ScriptedLoadableModule and the parameter node wrapper. An unknown widget class, a misspelt
attribute, a parameter that does not exist and a connection that the .ui lacks fail here as they would there.
`SLICER_BASE_PYTHON=<Slicer checkout>/Base/Python` takes Slicer's own Python files in place of the imitated ones.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
import tempfile
import time
import types
import typing
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PySide6 import QtCore, QtGui, QtTest, QtUiTools, QtWidgets

# The package slicer imports whatever lies in folders of its name, and tests/slicer is one while tests is on the path
_path, sys.path[:] = sys.path[:], [each for each in sys.path if not (Path(each) / "slicer_stand_in.py").exists()]
import slicer.util  # noqa: E402

import slicer  # noqa: E402

sys.path[:] = _path

_ALIVE = []  # widgets live as long as Python knows them; Slicer's belong to their parents
_VIRTUAL = {"sizeHint", "minimumSizeHint", "layout"}


# --- PythonQt: properties are attributes, signals are connected by name ---


def _connect(self, signal, slot):
    """Call `slot` with as many of the signal's arguments as it takes."""
    name, _, arguments = signal.partition("(")
    n_sent = len([each for each in arguments.rstrip(")").split(",") if each])
    try:
        kinds = [each.kind for each in inspect.signature(slot).parameters.values()]
        n_taken = n_sent if inspect.Parameter.VAR_POSITIONAL in kinds else sum(kind < 2 for kind in kinds)
    except ValueError:  # a method of Qt's
        n_taken = n_sent
    getattr(self, name).connect(lambda *values: slot(*values[:n_taken]))
    return True


def _property(name):
    return property(lambda self: QtCore.QObject.property(self, name),
                    lambda self, value: QtCore.QObject.setProperty(self, name, value))


def _strict(base):
    """A typing mistake must not pass unseen."""
    def assign(self, name, value):
        if name.startswith("_") or hasattr(type(self), name):
            base.__setattr__(self, name, value)
        elif not QUiLoader.is_loading:  # then PySide6 hangs every control on the window; Slicer does not
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
    return assign


def pythonqt(base, **extra):
    """A Qt class with PythonQt's habits."""
    meta = base.staticMetaObject
    names = {meta.property(index).name() for index in range(meta.propertyCount())} - _VIRTUAL
    habits = {"connect": _connect, "className": lambda self: type(self).__name__, "__setattr__": _strict(base),
              "name": _property("objectName")}
    return type(base.__name__, (base,), {each: _property(each) for each in names} | habits | extra)


class QUiLoader(QtUiTools.QUiLoader):
    """Loads a .ui file with the classes below, and makes only the connections that stand in it."""

    is_loading = False

    def createWidget(self, kind, parent=None, name=""):
        made = WIDGETS.get(kind) or getattr(sys.modules["qt"], kind, None)
        if made is None:
            raise RuntimeError(f"the stand-in has no {kind}")
        widget = made(parent)
        widget.setObjectName(name)
        _ALIVE.append(widget)
        return widget

    def load(self, file):
        root = ET.fromstring(bytes(file.readAll().data()))
        connections = root.find("connections")
        root.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        QUiLoader.is_loading = True
        try:
            top = super().load(buffer)
        finally:
            QUiLoader.is_loading = False
        named = {each.objectName: each for each in [top, *top.findChildren(QtCore.QObject)]}
        for each in connections:
            receiver = named[each.findtext("receiver")]
            slot = getattr(receiver, each.findtext("slot").partition("(")[0])
            named[each.findtext("sender")].connect(each.findtext("signal"), slot)
        for each in named.values():
            if isinstance(each, QtWidgets.QGroupBox):
                each.setTitle(each.property("text"))
        return top


_Widget, _ComboBox, _GroupBox = (pythonqt(each) for each in (QtWidgets.QWidget, QtWidgets.QComboBox,
                                                             QtWidgets.QGroupBox))


class MrmlWidget(pythonqt(QtWidgets.QWidget)):
    mrmlSceneChanged = QtCore.Signal(object)

    def setMRMLScene(self, scene):
        self.mrmlSceneChanged.emit(scene)


MrmlWidget.connect = _connect


class NodeComboBox(pythonqt(QtWidgets.QComboBox)):
    """Choices are the nodes of the real scene; it follows what is added, removed and closed."""

    currentNodeChanged = QtCore.Signal(object)
    nodeTypes, noneEnabled = _property("nodeTypes"), _property("noneEnabled")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._checked = set()
        self.currentIndexChanged.connect(lambda _: self.currentNodeChanged.emit(self.currentNode()))

    def setMRMLScene(self, scene):
        self._scene = scene
        self.setEnabled(scene is not None)
        for event in ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent"):
            scene.AddObserver(getattr(scene, event), lambda *_: self._fill())
        self._fill()

    def _nodes(self):
        every = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        hidden = self.property("hideChildNodeTypes") or []
        return [node for node in every if any(node.IsA(kind) for kind in self.property("nodeTypes"))
                and not any(node.IsA(kind) for kind in hidden)]

    def _fill(self):
        chosen = self.currentData
        self.blockSignals(True)
        QtWidgets.QComboBox.clear(self)
        if self.property("noneEnabled"):
            self.addItem("None", None)
        for node in self._nodes():
            self.addItem(node.GetName(), node.GetID())
        index = self.findData(chosen)
        if index < 0:  # Slicer takes the first one only where there has to be one
            index = 0 if self.property("noneEnabled") or QtWidgets.QComboBox.property(self, "count") else -1
        QtWidgets.QComboBox.setCurrentIndex(self, index)
        self.blockSignals(False)
        if self.currentData != chosen:
            self.currentNodeChanged.emit(self.currentNode())

    def currentNode(self):
        return self._scene.GetNodeByID(self.currentData) if self._scene and self.currentData else None

    def setCurrentNode(self, node):
        QtWidgets.QComboBox.setCurrentIndex(self, self.findData(node.GetID() if node is not None else None))

    def checkedNodes(self):
        return [node for node in self._nodes() if node.GetID() in self._checked]

    def setCheckState(self, node, state):
        (self._checked.add if state == QtCore.Qt.CheckState.Checked else self._checked.discard)(node.GetID())


NodeComboBox.connect = _connect


class SegmentEditorWidget(pythonqt(QtWidgets.QWidget)):
    """Notes what it is told; painting is up to the tests."""

    _KNOWN = ("setMRMLSegmentEditorNode", "setSegmentationNode", "setSourceVolumeNode", "setActiveEffectByName",
              "setMaximumNumberOfUndoStates", "installKeyboardShortcuts", "uninstallKeyboardShortcuts", "setMRMLScene")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._told = {}
        layout = QtWidgets.QVBoxLayout(self)
        layout.addWidget(QtWidgets.QLabel("[Segment Editor]"))

    def __getattr__(self, name):
        if name not in SegmentEditorWidget._KNOWN:
            raise AttributeError(f"qMRMLSegmentEditorWidget has no attribute {name!r}")
        return lambda *values: self._told.__setitem__(name, values)


WIDGETS = {"qMRMLWidget": MrmlWidget, "qMRMLNodeComboBox": NodeComboBox, "qMRMLCheckableNodeComboBox": NodeComboBox,
           "qMRMLSegmentEditorWidget": SegmentEditorWidget, "ctkCollapsibleButton": _GroupBox}


def _make_qt():
    qt = types.ModuleType("qt")
    habitual = (QtWidgets.QWidget, QtCore.QTimer, QtGui.QShortcut)
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):
            value = getattr(module, name)
            is_known = isinstance(value, type) and issubclass(value, habitual)
            setattr(qt, name, pythonqt(value) if is_known else value)
    qt.QApplication = QtWidgets.QApplication
    qt.QFileDialog = types.SimpleNamespace(getExistingDirectory=lambda *_: "")
    qt.QUiLoader = QUiLoader
    qt.QFile.ReadOnly = QtCore.QIODevice.OpenModeFlag.ReadOnly
    return qt


# --- slicer.app, slicer.modules and what loads nodes ---


class App:
    """The application, as far as scripted modules touch it."""

    def __init__(self):
        self.temporaryPath = tempfile.mkdtemp()

    def testingEnabled(self):
        return True

    def processEvents(self):
        QtWidgets.QApplication.processEvents()

    def mrmlScene(self):
        return slicer.mrmlScene

    def moduleManager(self):
        return types.SimpleNamespace(connect=lambda *_: True, disconnect=lambda *_: True)

    def userSettings(self):
        return QtCore.QSettings()

    settings = revisionUserSettings = userSettings


def _load_volume(filename, properties={}):  # noqa: B006 - as Slicer has it
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", Path(filename).name.split(".")[0])
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(filename))
    if not storage.ReadData(node):
        slicer.mrmlScene.RemoveNode(node)
        raise RuntimeError(f"Failed to load node from file: {filename}")
    node.CreateDefaultDisplayNodes()
    return node


def _same(value):
    return value


# --- Slicer's Python files, where no checkout gives the real ones ---


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.parent = parent
        self.layout = parent.layout()

    def setup(self):
        pass

    def resourcePath(self, name):
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self):
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node.SetAttribute("ModuleName", self.moduleName)
            node.SetName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest:
    def delayDisplay(self, *_):
        pass


def parameterNodeWrapper(cls):
    """Parameters of a real vtkMRMLScriptedModuleNode as attributes, tied to controls by SlicerParameterName."""
    kinds = typing.get_type_hints(cls)

    def parameter(name, kind):
        if kind.__name__.startswith("vtkMRML"):
            return property(lambda self: self.parameterNode.GetNodeReference(name),
                            lambda self, node: self.parameterNode.SetNodeReferenceID(name, node and node.GetID()))
        default = getattr(cls, name)
        read = (lambda text: text == "True") if kind is bool else kind
        return property(lambda self: read(text) if (text := self.parameterNode.GetParameter(name)) else default,
                        lambda self, value: self.parameterNode.SetParameter(name, str(kind(value))))

    return type(cls.__name__, (_Wrapped,), {"_kinds": kinds} | {each: parameter(each, kinds[each]) for each in kinds})


class _Wrapped:
    _kinds: typing.ClassVar = {}

    def __init__(self, node):
        self.parameterNode = node

    def connectGui(self, gui):
        undo = []
        for control in vars(gui).values():
            name = control.property("SlicerParameterName") if isinstance(control, QtCore.QObject) else None
            if not name:
                continue
            if name not in self._kinds:
                raise ValueError(f"{control.name}: {name!r} is not a parameter")
            undo.append(self._tie(control, name))
        return undo

    def _tie(self, control, name):
        def tell(value):
            setattr(self, name, value)

        if self._kinds[name] is bool and isinstance(control, QtWidgets.QCheckBox):
            control.setChecked(getattr(self, name))
            signal = control.toggled
        elif self._kinds[name] is not bool and isinstance(control, NodeComboBox):
            if getattr(self, name) is not None:
                control.setCurrentNode(getattr(self, name))
            signal = control.currentNodeChanged
            tell(control.currentNode())
        else:
            raise RuntimeError(f"Unable to create GUI connector from {self._kinds[name]} to {type(control).__name__}")
        signal.connect(tell)
        return signal, tell

    def disconnectGui(self, undo):
        for signal, tell in undo:
            signal.disconnect(tell)


def _imitate_python_files():
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for each in (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic,
                 ScriptedLoadableModuleTest):
        setattr(module, each.__name__, each)
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    wrapper.parameterNodeWrapper = parameterNodeWrapper
    for each in (module, i18n, wrapper):
        sys.modules[each.__name__] = each


def _use_python_files(folder):
    """Slicer's own; they look at the classes of many widgets, of which ours are some."""
    text = (folder / "parameterNodeWrapper" / "guiConnectors.py").read_text(encoding="utf-8")
    for module, name in re.findall(r"\b(ctk|slicer)\.((?:ctk|qMRML)\w+)", text):
        known = WIDGETS.get(name) or type(name, (QtWidgets.QWidget,), {})
        setattr(sys.modules[module], name, known)
    slicer.__path__.append(str(folder))


def install():
    """Make `import slicer, qt` good enough for the module; once a process."""
    if hasattr(slicer, "app"):
        return
    _ALIVE.append(QtWidgets.QApplication.instance() or QtWidgets.QApplication([]))
    QtCore.QSettings.setPath(QtCore.QSettings.Format.NativeFormat, QtCore.QSettings.Scope.UserScope,
                             tempfile.mkdtemp())
    sys.modules["qt"] = _make_qt()
    sys.modules["ctk"] = types.ModuleType("ctk")
    slicer.mrmlScene = slicer.vtkMRMLScene()
    slicer.app = App()
    slicer.modules = types.SimpleNamespace()
    for name, kind in (("segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
                       ("sequences", slicer.vtkSlicerSequencesLogic), ("volumes", slicer.vtkSlicerVolumesLogic)):
        logic = kind()
        logic.SetMRMLScene(slicer.mrmlScene)
        setattr(slicer.modules, name, types.SimpleNamespace(logic=functools.partial(_same, logic)))
    slicer.util.loadVolume = _load_volume
    base = os.environ.get("SLICER_BASE_PYTHON")
    if base:
        _use_python_files(Path(base) / "slicer")
    else:
        _imitate_python_files()


def open_module(path):
    """The module's file, loaded as Slicer loads it: its folder on the path, its place known to `slicer.util`."""
    name = path.stem
    sys.path.insert(0, str(path.parent))
    slicer.util.modulePath = lambda _: str(path)
    setattr(slicer.modules, name.lower(), types.SimpleNamespace(path=str(path)))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def open_widget(module):
    """The module's panel in a window of its own, set up."""
    parent = MrmlWidget()
    parent.setLayout(QtWidgets.QVBoxLayout())
    _ALIVE.append(parent)
    widget = getattr(module, f"{module.__name__}Widget")(parent)
    widget.setup()
    return widget, parent


# --- what a user does ---


class Window:
    """The module's panel, shown, and what a user does there.

    Parameters: `root`, the checkout; `wait_s`, how long something may take before it counts as never.
    """

    def __init__(self, root, wait_s=900):
        self._wait_s = wait_s
        self.module = open_module(root / "slicer_extension" / "MambaSeg" / "MambaSeg.py")
        self.widget, self.top = open_widget(self.module)
        self.top.resize(340, 900)
        self.top.show()
        self.top.activateWindow()
        QtTest.QTest.qWaitForWindowActive(self.top)
        self.ui = self.widget.ui
        self.panel = self.widget.panel

    def wait(self, is_done):
        end = time.monotonic() + self._wait_s
        while not is_done():
            assert time.monotonic() < end, "nothing happened"
            QtWidgets.QApplication.processEvents()
            time.sleep(0.01)

    def settle(self):
        """Until nothing runs and everything drawn is kept."""
        self.wait(lambda: not self.panel.timer.isActive() and not self.panel.segment.is_busy)

    def choose(self, node, model):
        self.ui.image.setCurrentNode(node)
        self.panel.segment.choose_model(model)

    def press(self, keys):
        QtTest.QTest.keySequence(self.top, keys)

    def segment(self):
        self.ui.run.click()
        self.settle()
        return self.panel.correct.correcting


def paint(node, name, where, volume, value=True):
    """Draw in a segment, or erase from it, as the Segment Editor's scripted effects do."""
    segment = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume).copy()
    array[where] = value
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, segment, volume)


def labels_of(node, volume):
    """Class or object numbers of a result on the volume's grid."""
    from MambaSegLib._adapt import layers, read_volume
    from MambaSegLib._segments import number_of

    source = read_volume(volume)
    found = np.zeros(source.shape, int)
    for layer in layers(node):
        labels = layer.on_grid(source)
        for each in layer.ids:
            one = node.GetSegmentation().GetSegment(each)
            found[labels == one.GetLabelValue()] = number_of(one)
    return found


def save(scene, path):
    """Save the scene and the data of its nodes, as Slicer's Save does."""
    scene.SetURL(str(path))
    scene.SetRootDirectory(str(path.parent))
    for name, suffix in (("vtkMRMLScalarVolumeNode", ".nrrd"), ("vtkMRMLSegmentationNode", ".seg.nrrd")):
        for index in range(scene.GetNumberOfNodesByClass(name)):
            node = scene.GetNthNodeByClass(index, name)
            node.AddDefaultStorageNode()
            node.GetStorageNode().SetFileName(str(path.parent / f"{node.GetID()}{suffix}"))
            assert node.GetStorageNode().WriteData(node)
    assert scene.Commit(str(path))
