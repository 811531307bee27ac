"""How long the Slicer extension holds Slicer's own thread, step by step, on a large volume.

    python benchmarks/slicer_thread.py [SIDE]

Processor time, in Slicer's scene without its window (slicer-core) and the tests' stand-in for the rest. "own" steps are
done in Slicer's thread, the others in a thread beside it.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MODEL = "hippocampus-mri"


def main() -> None:
    """Segment nothing, but show, draw, keep and confirm labels of two classes."""
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "slicer_extension" / "MambaSeg")]
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import slicer_stand_in

    slicer_stand_in.install()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MAMBASEG_DATA"] = folder
        measure(side)


def measure(side: int) -> None:
    """Go through a result's life."""
    import slicer
    from mambaseg.models import read_model, resolve
    from MambaSegLib._adapt import read_volume
    from MambaSegLib._corrections import Correcting
    from MambaSegLib._results import result_of
    from MambaSegLib._segments import Growing, Painted, relabel, show_labels

    volume = slicer.util.addVolumeFromArray(np.zeros((side,) * 3, np.int16))
    slicer.util.arrayFromVolume(volume)[:] = np.random.default_rng(0).integers(0, 100, (side, 1, side), np.int16)
    model = read_model(resolve(MODEL))
    labels = np.zeros((side,) * 3, np.uint8)
    labels[tuple([slice(side // 4, -side // 4)] * 3)] = 1
    labels[:4] = 2
    source = told("own    read the volume", lambda: read_volume(volume))
    told("own    begin to show windows", lambda: Growing(source, model)).remove()
    painted = told("beside look at the labels", lambda: Painted.of(labels, model))
    node = told("own    show the result", lambda: show_labels(source, painted, {}, model, MODEL))
    opening = Correcting.opening(result_of(node), source)
    correcting = told("beside open the journal", opening)
    told("beside keep the result", lambda: correcting.show(labels))
    drawn = told("own    copy what is drawn", correcting.drawn)
    told("beside keep a stroke", lambda: correcting.record(drawn))
    told("beside confirm a slice", lambda: correcting.confirm(((9, 10), (0, side), (0, side)), drawn))
    told("beside count", correcting.state)
    told("own    show other labels", lambda: relabel(node, source, painted, model))
    correcting.close()


def told(step: str, work: Callable[[], Any]) -> Any:
    """Do a step and print how long it took."""
    begun_s = time.process_time()
    made = work()
    print(f"{step:32s}{1000 * (time.process_time() - begun_s):8.0f} ms", flush=True)
    return made


if __name__ == "__main__":
    main()
