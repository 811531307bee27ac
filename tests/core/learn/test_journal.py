"""The journal: what was painted is on the disk, whatever happens, and comes back voxel for voxel."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import painter
from mambaseg import UserError
from mambaseg.image import Image
from mambaseg.learn import ImageIdentity, Journal, identify
from mambaseg.learn.journal_view import View


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal.database.path)


# --- what is recorded ---


def test_stroke_says_which_voxels_which_labels_tool_time_image_and_author(journal: Journal) -> None:
    image = painter.identity((4, 5))
    labels = np.zeros((4, 5), np.uint8)
    before_s = time.time()
    labels[1, 2:4] = 7
    stroke = journal.view(image).record(labels, "brush")
    assert stroke is not None
    assert (stroke.sequence, stroke.tool, stroke.n_voxels, stroke.image) == (1, "brush", 2, image.checksum)
    assert before_s <= stroke.time_s <= time.time()
    assert stroke.author.startswith(f"{os.getpid()}-")
    places, old, new = journal.voxels(stroke.sequence)
    assert places.tolist() == [[1, 2], [1, 3]]
    assert (old.tolist(), new.tolist()) == ([0, 0], [7, 7])
    assert journal.strokes() == [stroke] == [journal.last_stroke()]


def test_undo_redo_scripts_and_new_arrays_are_differences_like_any_other(journal: Journal) -> None:
    view = journal.view(painter.identity((30, 30)))
    states = [np.zeros((30, 30), np.int32)]
    for value in (1, 2, 3):
        states.append(states[-1].copy())
        states[-1][value : value + 9, 5:20] = value
    for state in (*states[1:], states[2], states[1], states[2]):  # two undo steps and one redo
        assert view.record(state) is not None
        np.testing.assert_array_equal(journal.replay(view.identity.checksum), state)
    assert view.record(states[2]) is None, "a difference of nothing is no stroke"
    assert [stroke.sequence for stroke in journal.strokes()] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(journal.replay(view.identity.checksum, until=2), states[2])


def test_box_looks_only_there_and_the_rest_is_found_by_the_next_look(journal: Journal) -> None:
    view = journal.view(painter.identity((20, 20)))
    labels = np.zeros((20, 20), np.int32)
    labels[2, 2], labels[15, 15] = 1, 2
    stroke = view.record(labels, box=(slice(0, 5),))
    assert stroke is not None
    assert stroke.n_voxels == 1
    assert view.read()[15, 15] == 0
    assert view.record(labels) is not None
    assert view.read()[15, 15] == 2
    assert view.record(labels, box=(slice(9, 9), slice(0, 3))) is None


@pytest.mark.parametrize("shape", [(1, 1), (3, 1300), (65, 70, 130), (2, 3, 66, 65)])
def test_any_shape_comes_back_across_blocks(journal: Journal, shape: tuple[int, ...]) -> None:
    axes = {2: "YX", 3: "ZYX", 4: "TZYX"}[len(shape)]
    view = journal.view(identify(Image.from_array(np.zeros(shape, np.uint8), axes)))
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2**31 - 1, shape)
    assert view.record(labels) is not None
    labels[(generator.random(shape) < 0.01) | (labels == labels.flat[0])] = 0
    assert view.record(labels) is not None
    np.testing.assert_array_equal(journal.replay(view.identity.checksum), labels)
    again = reopened(journal)
    np.testing.assert_array_equal(again.view(view.identity).read(), labels)
    box = tuple(slice(n // 3, n) for n in shape)
    np.testing.assert_array_equal(again.view(view.identity).read(box=box), labels[box])
    again.close()


def test_many_strokes_on_one_spot_reopen_where_they_stopped(journal: Journal) -> None:
    view = journal.view(painter.identity((50, 50)))
    labels = np.zeros((50, 50), np.int32)
    for number in range(200):  # a block is stored whole now and then; before, between and after must agree
        labels[number % 50, : 1 + number // 5] = number
        view.record(labels, box=(slice(number % 50, number % 50 + 1),))
        if number % 37 == 0:
            with_all = Journal(journal.database.path)
            np.testing.assert_array_equal(with_all.view(view.identity).read(), labels)
            with_all.close()
    np.testing.assert_array_equal(journal.replay(view.identity.checksum), labels)
    with journal.database.snapshot() as connection:
        assert connection.execute("SELECT COUNT(*) FROM blocks").fetchone()[0] > 0


def test_image_is_known_by_its_pixels_not_by_its_name(journal: Journal) -> None:
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5)
    first = identify(Image.from_array(pixels))
    assert identify(Image.from_array(pixels.astype(">u2"))).checksum == first.checksum
    assert identify(Image.from_array(pixels.reshape(5, 4))).checksum != first.checksum
    assert identify(Image.from_array(pixels + 1)).checksum != first.checksum
    journal.view(first)
    journal.view(first)
    assert journal.images() == [first]
    assert ImageIdentity.from_json(first.to_json()) == first


def test_labels_shape_leaves_channels_out_and_keeps_time() -> None:
    image = Image.from_array(np.zeros((2, 3, 4, 5), np.uint8), "TCYX")
    assert (identify(image).shape, identify(image).axes) == ((2, 4, 5), "TYX")


def test_dicom_file_names_are_not_kept() -> None:
    image = Image.from_array(np.zeros((4, 5), np.uint8))
    named = Image(image.data, image.axes, image.grid, source="somebody.dcm", metadata={"format": "DICOM"})
    assert identify(named).name == ""


@pytest.mark.parametrize(("labels", "message"), [
    (np.zeros((4, 6), np.int32), "4 x 6 voxels, but the image that they correct is 4 x 5"),
    (np.ones((4, 5), np.float32), "float32 values"),
    (np.full((4, 5), -1), "-1 to -1"),
    (np.full((4, 5), 2**31 - 1), "2,147,483,646 can be kept"),
])  # fmt: skip
def test_labels_that_cannot_be_kept_are_one_sentence_and_no_stroke(
    journal: Journal, labels: np.ndarray, message: str
) -> None:
    view = journal.view(painter.identity((4, 5)))
    with pytest.raises(UserError, match=message):
        view.record(labels)
    assert journal.strokes() == []


edits = st.lists(st.tuples(
    st.sampled_from(["paint", "undo", "redo", "script", "replace", "reopen"]), st.integers(0, 2**16)), max_size=25)


@settings(max_examples=20)
@given(edits=edits)
def test_any_edits_replay_to_the_same_array(tmp_path_factory: pytest.TempPathFactory,
                                            edits: list[tuple[str, int]]) -> None:
    journal = Journal(tmp_path_factory.mktemp("edits") / "journal.sqlite")
    image = painter.identity((70, 66, 5))
    view, labels, done, undone = journal.view(image), np.zeros((70, 66, 5), np.int32), [], []
    for action, seed in edits:
        generator, box = np.random.default_rng(seed), None
        if action in ("paint", "script"):
            done.append(labels.copy())
            low = generator.integers(0, labels.shape)
            box = tuple(slice(int(start), int(start) + 9) for start in low)
            labels[box] = seed % 5
            box = box if action == "paint" else None
        elif action == "undo" and done:
            undone.append(labels)
            labels = done.pop()
        elif action == "redo" and undone:
            done.append(labels)
            labels = undone.pop()
        elif action == "replace":
            labels = generator.integers(0, 3, labels.shape, np.int32)
        elif action == "reopen":
            journal = reopened(journal)
            view = journal.view(image)
        view.record(labels, action, box)
        np.testing.assert_array_equal(view.read(), labels)
        np.testing.assert_array_equal(journal.replay(image.checksum), labels)
    journal.close()


# --- what may happen ---


def kill_while_painting(path: Path, seed: int, n_done: int, random_s: float) -> tuple[int, int]:
    """Let a program paint on from `n_done` strokes and kill it; strokes it said were kept, strokes that are there."""
    with subprocess.Popen([sys.executable, painter.__file__, str(path), str(seed), str(n_done)],
                          stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(random_s)
        child.kill()
        said = [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    journal = Journal(path)
    try:
        image = painter.identity(seed=seed)
        n_there = len(journal.strokes(image.checksum))
        assert journal.notices == []
        np.testing.assert_array_equal(journal.view(image).read(), painter.painted(seed, n_there))
        np.testing.assert_array_equal(journal.replay(image.checksum), painter.painted(seed, n_there))
    finally:
        journal.close()
    return said[-1] if said else n_done, n_there


@pytest.mark.parametrize("n_kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_killed_painter_loses_no_acknowledged_stroke(tmp_path: Path, n_kills: int) -> None:
    generator, n_done, n_lost = random.Random(n_kills), 0, 0
    for _ in range(n_kills):
        n_said, n_there = kill_while_painting(tmp_path / "journal.sqlite", 1, n_done, generator.uniform(0, 0.2))
        n_lost += max(0, n_said - n_there)
        assert n_there <= n_said + 1, "at most the stroke in flight is there without having been acknowledged"
        n_done = n_there
    sys.stdout.write(f"tried {n_kills}, lost {n_lost}\n")
    assert n_lost == 0
    assert n_done > n_kills


def test_two_programs_keep_both_their_strokes_in_order(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    said = []
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(subprocess.Popen(
            [sys.executable, painter.__file__, str(path), str(seed), "0"], stdout=subprocess.PIPE, text=True))
            for seed in (1, 2)]
        for child in children:
            stack.callback(child.kill)
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdout is not None
            while int(child.stdout.readline()) < 40:
                pass
        for child in children:
            child.kill()
            assert child.stdout is not None
            said.append(max([40, *map(int, child.stdout.read().split())]))
    journal = Journal(path)
    sequences = [stroke.sequence for stroke in journal.strokes()]
    assert sequences == sorted(set(sequences))
    for seed, n_said in zip((1, 2), said, strict=True):
        image = painter.identity(seed=seed)
        strokes = journal.strokes(image.checksum)
        assert n_said <= len(strokes) <= n_said + 1
        assert len({stroke.author for stroke in strokes}) == 1
        np.testing.assert_array_equal(journal.view(image).read(), painter.painted(seed, len(strokes)))
    journal.close()


def test_two_windows_on_one_image_do_not_erase_each_other(journal: Journal) -> None:
    image = painter.identity((80, 80))
    other = Journal(journal.database.path)
    mine, theirs = journal.view(image), other.view(image)
    a, b = np.zeros((80, 80), np.int32), np.zeros((80, 80), np.int32)
    for number in range(90):  # beyond the moment at which a block is stored whole
        a[number % 40, 10] = number + 1
        b[number % 40, 30] = number + 1
        mine.record(a)
        theirs.record(b)
    a[70, 70] = 5  # not recorded yet
    assert len(mine.pull(a)) == 90
    theirs.pull(b)
    np.testing.assert_array_equal(a, b)
    assert (a[:40, 10] > 0).all()
    assert (a[:40, 30] > 0).all()
    assert a[70, 70] == 5
    np.testing.assert_array_equal(journal.replay(image.checksum), a)
    assert mine.pull(a) == []
    other.close()


def test_where_two_windows_painted_the_same_voxel_the_later_stroke_counts(journal: Journal) -> None:
    image = painter.identity((8, 8))
    first, second = journal.view(image), journal.view(image)
    a, b = np.zeros((8, 8), np.int32), np.zeros((8, 8), np.int32)
    b[0, :4] = 2
    second.record(b)
    a[0, 2:6] = 1
    first.record(a)  # later, and without having seen the other
    first.pull(a)
    second.pull(b)
    assert a[0].tolist() == b[0].tolist() == [2, 2, 1, 1, 1, 1, 0, 0]


def test_label_that_a_layer_cannot_hold_is_said_and_not_wrapped(journal: Journal) -> None:
    image = painter.identity((8, 8))
    mine, theirs = journal.view(image), journal.view(image)
    theirs.record(np.full((8, 8), 300, np.int32))
    labels = np.zeros((8, 8), np.uint8)
    with pytest.raises(UserError, match="label 300, but this layer holds uint8"):
        mine.pull(labels)
    assert not labels.any()
    assert mine.record(labels) is None, "what the other painted is not taken for erased"


def fill(view: View, n: int) -> np.ndarray:
    """Paint `n` noisy strokes; the labels after them."""
    labels = np.zeros(view.shape, np.int32)
    for number in range(n):
        labels[:, 10 * number : 10 * number + 10] = np.random.default_rng(number).integers(1, 99, (view.shape[0], 10))
        view.record(labels)
    return labels


def test_full_disk_is_one_sentence_and_the_journal_goes_on_when_there_is_room(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
import painter
from mambaseg import UserError
from mambaseg.learn import Journal
journal = Journal(sys.argv[1])
view = journal.view(painter.identity((600, 500)))
labels = np.zeros((600, 500), np.int32)
labels[:9] = 3
view.record(labels)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
noisy = np.random.default_rng(0).integers(0, 2**31 - 2, labels.shape)
try:
    view.record(noisy)
except UserError as error:
    print(error)
assert (view.read() == labels).all()
assert (journal.replay(view.identity.checksum) == labels).all()
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert view.record(noisy).n_voxels > 0
assert (journal.replay(view.identity.checksum) == noisy).all()
"""
    path = tmp_path / "journal.sqlite"
    environment = os.environ | {"PYTHONPATH": str(Path(painter.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False,
                          env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert str(path) in done.stdout
    assert "bytes are wanted" in done.stdout
    assert len(Journal(path).strokes()) == 2


def test_torn_write_ahead_log_costs_only_what_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    view = journal.view(painter.identity((300, 200)))
    labels = fill(view, 12)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    journal.close()
    log = copy / "journal.sqlite-wal"
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 6000)
    torn = Journal(copy / "journal.sqlite")
    n_there = len(torn.strokes())
    assert 8 <= n_there < 12
    expected = np.where(np.arange(200) < 10 * n_there, labels, 0)
    np.testing.assert_array_equal(torn.replay(view.identity.checksum), expected)
    torn.close()


@pytest.mark.parametrize("damage", ["end cut off", "zeros at the end", "noise in the middle", "no database"])
def test_damaged_file_opens_says_so_and_keeps_what_is_readable(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    image = painter.identity((300, 600))
    labels = fill(journal.view(image), 60)
    journal.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        if damage == "end cut off":
            file.truncate(size - 20_000)
        elif damage == "no database":
            file.write(b"not a database at all, " * 100)
        else:
            file.seek(size - 30_000 if damage == "zeros at the end" else size // 2)
            file.write(bytes(30_000) if damage == "zeros at the end" else os.urandom(20_000))
    rescued = Journal(path)
    assert "was damaged" in rescued.notices[0]
    assert len(list(tmp_path.glob("journal.damaged-*.sqlite"))) == 1
    view = rescued.view(image)
    columns = (view.read() == labels).all(axis=0)
    assert columns.mean() >= (0 if damage == "no database" else 0.5)
    assert view.record(labels) is not None, "the window still has all, and what was missing is written again"
    rescued = reopened(rescued)
    assert rescued.notices == []
    np.testing.assert_array_equal(rescued.view(image).read(), labels)
    rescued.close()


def test_rescue_without_room_is_one_sentence_and_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    fill(journal.view(painter.identity((300, 600))), 60)
    journal.close()
    os.truncate(path, path.stat().st_size - 20_000)
    before = path.read_bytes()
    code = """
import resource, sys
from mambaseg import UserError
from mambaseg.learn import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    Journal(sys.argv[1])
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path), str(len(before) // 2)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be rescued" in done.stdout
    assert path.read_bytes() == before
    assert list(tmp_path.glob("journal.*ed-*")) == []
    rescued = Journal(path)
    assert len(rescued.strokes()) > 30
    rescued.close()


def test_stroke_that_rotted_is_left_out_and_said(journal: Journal) -> None:
    view = journal.view(painter.identity((30, 30)))
    labels = fill(view, 3)
    with sqlite3.connect(journal.database.path) as connection:
        connection.execute("UPDATE changes SET change = zeroblob(20) WHERE sequence = 2")
    connection.close()
    again = reopened(journal)
    labels[:, 10:20] = 0
    np.testing.assert_array_equal(again.view(view.identity).read(), labels)
    assert "cannot be read" in again.notices[0]
    again.close()


def test_later_form_is_refused_in_words(journal: Journal) -> None:
    with journal.database.transaction() as connection:
        connection.execute("UPDATE state SET value = 99 WHERE name = 'schema'")
    with pytest.raises(UserError, match="update mambaseg"):
        Journal(journal.database.path)


def test_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be made"):
        Journal(tmp_path / "file" / "journal.sqlite")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be opened"):
        Journal(tmp_path / "folder")


def test_memory_of_a_large_volume_stays_small(tmp_path: Path) -> None:
    """A volume whose labels would take 400 MB unpacked is compared and kept within a small part of that."""
    code = """
import resource, sys
import numpy as np
from mambaseg.image import Grid
from mambaseg.learn import ImageIdentity, Journal
shape = (400, 512, 512)
identity = ImageIdentity("0" * 64, shape, "ZYX", (1.0,) * 3, "px", (0.0,) * 3, tuple(np.eye(3).ravel()))
view = Journal(sys.argv[1]).view(identity)
labels = np.zeros(shape, np.uint8)
labels[100:300, 100:300, 100:300] = 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
view.record(labels)
labels[::50] = 2
view.record(labels)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "journal.sqlite")], capture_output=True,
                          text=True, check=True)
    assert int(done.stdout) < 100 + 10  # MiB: the pages of `labels` that were zero, not the 400 of a copy
