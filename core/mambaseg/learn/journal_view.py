"""One image of the journal as one window has it: finds differences, writes them, takes in those of others."""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg.learn.journal_blocks import (
    EMPTY,
    MAX_LABEL,
    BlockGrid,
    Box,
    apply_change,
    constant_of,
    decode_block,
    encode_block,
    encode_change,
    extent,
    shifted,
)
from mambaseg.learn.journal_database import Database, JournalError
from mambaseg.learn.journal_entries import PLANES, ImageIdentity, Stroke

__all__ = ["View"]

_FOLD_EVERY = 64  # changes of a block after which its whole content is stored, so that reading it stays quick
_DAMAGE = (ValueError, struct.error, IndexError)


class View:
    """One image as one window has journalled it; made by `Journal.view`.

    Holds a compressed copy of the planes: small where labels are smooth, never larger than a quarter of a million
    voxels unpacked at a time. Another program's strokes do not change it until `pull` is called, so that they are
    never taken for something this window erased.
    """

    def __init__(self, database: Database, image: int, identity: ImageIdentity) -> None:
        self.identity = identity
        self.author = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.grid = BlockGrid(identity.shape)
        self._database = database
        self._image = image
        self._blocks: dict[tuple[str, int], bytes] = {}
        self._pending: dict[tuple[str, int], list[bytes]] = {}
        self._n_since_fold: dict[tuple[str, int], int] = {}
        self._lock = threading.RLock()  # a front end may record from a worker while its window reads
        self._seen = 0
        self._load()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the labels."""
        return self.identity.shape

    def record(self, labels: NDArray[Any], tool: str = "paint", box: Sequence[slice] | None = None) -> Stroke | None:
        """Put what changed in the labels since the last record on the disk.

        Parameters
        ----------
        labels : whole numbers, the whole array as it is now, not only the box
        tool : what the user did, for the record
        box : where to look, as slices from the first axis on; None: everywhere. What changed outside is found at the
            next call that looks there

        Returns
        -------
        The stroke; None: nothing changed there

        Raises
        ------
        JournalError : labels of another shape, no whole numbers or out of range, or they cannot be written. Nothing was
            recorded then, and the next call finds the difference again
        """
        if labels.shape != self.shape:
            raise JournalError(f"The labels are {_times(labels.shape)} voxels, but the image that they correct is "
                               f"{_times(self.shape)}; choose the labels that belong to it.")
        whole = self.grid.whole_box(box)
        return self.write({"labels": labels[whole]}, tool, whole)

    def write(self, planes: Mapping[str, NDArray[Any]], tool: str, box: Sequence[slice] | None = None) -> Stroke | None:
        """Put what differs in one or several planes on the disk as one stroke: all of it or nothing.

        Parameters
        ----------
        planes : values by name of the plane, each of the shape of `box`
        tool, box : as for `record`

        Returns
        -------
        The stroke; None: nothing differs
        """
        with self._lock:
            return self._write(planes, tool, self.grid.whole_box(box))

    def _write(self, planes: Mapping[str, NDArray[Any]], tool: str, whole: Box) -> Stroke | None:
        found: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        counts: dict[str, int] = {}
        for plane, values in planes.items():
            for number, n_voxels, change, block in self._differences(plane, values, whole):
                found[plane, number] = change, block
                counts[plane] = counts.get(plane, 0) + n_voxels
        if not found:
            return None
        stroke = self._store({key: change for key, (change, _) in found.items()}, tool,
                             counts.get("labels") or max(counts.values()))
        for key, (_, block) in found.items():  # only now: after a failed write the difference is found again
            self._blocks[key] = block
        return stroke

    def read(self, plane: str = "labels", box: Sequence[slice] | None = None) -> NDArray[np.int32]:
        """The values of a plane as this window has journalled them; box as for `record`."""
        whole = self.grid.whole_box(box)
        values = np.empty(extent(whole), np.int32)
        for number, shared, local in self.grid.touching(whole):
            block = self._block(plane, number)
            constant = constant_of(block)
            values[shifted(shared, whole)] = (
                constant if constant is not None else decode_block(block, extent(self.grid.place(number)))[local])
        return values

    def pull(self, labels: NDArray[Any]) -> list[Stroke]:
        """Take in what other windows and programs have recorded on this image since the last pull.

        Parameters
        ----------
        labels : the array that the user sees; recorded first, then changed in place to what all strokes together give

        Returns
        -------
        The strokes of the others; empty nearly always

        Raises
        ------
        JournalError : as for `record`, or others used label numbers that the type of `labels` cannot hold
        """
        with self._lock:
            return self._pull(labels)

    def _pull(self, labels: NDArray[Any]) -> list[Stroke]:
        self.record(labels)
        query = ("SELECT sequence, ?, time_s, tool, author, n_voxels FROM strokes WHERE image = ? AND sequence > ? "
                 "AND author <> ? ORDER BY sequence")
        with self._database.snapshot() as connection:
            rows = connection.execute(query, (self.identity.checksum, self._image, self._seen, self.author)).fetchall()
            strokes = [Stroke(*row) for row in rows]
            touched: set[tuple[str, int]] = set()
            for stroke in strokes:
                touched.update(connection.execute("SELECT plane, block FROM changes WHERE sequence = ?",
                                                  (stroke.sequence,)))
            merged = {key: self._merged(connection, *key) for key in touched}
        places = {number: self.grid.place(number) for plane, number in merged if plane == "labels"}
        shown = {number: decode_block(merged["labels", number], extent(place)) for number, place in places.items()}
        highest = max((int(values.max()) for values in shown.values()), default=0)
        if highest > np.iinfo(labels.dtype).max:
            raise JournalError(f"Another window painted label {highest:,}, but this layer holds {labels.dtype} values; "
                               "open the image again in it.")
        for number, values in shown.items():
            labels[places[number]] = values
        self._blocks |= merged
        for key in merged:
            self._pending.pop(key, None)
        self._seen = strokes[-1].sequence if strokes else self._seen
        return strokes

    def blocks_touched(self) -> Iterator[Box]:
        """Where each block lies in which the labels differ from the baseline or something is marked."""
        for number in sorted({number for _, number in [*self._blocks, *self._pending]}):
            labels, baseline, marks = (self._block(plane, number) for plane in PLANES)
            if labels != baseline or constant_of(marks) != 0:
                yield self.grid.place(number)

    def _load(self) -> None:
        """Read the state up to now: stored blocks, and the changes after them as they are."""
        pending = ("SELECT c.plane, c.block, c.change FROM changes c LEFT JOIN blocks b ON b.image = c.image AND "
                   "b.plane = c.plane AND b.block = c.block WHERE c.image = ? AND c.sequence > IFNULL(b.sequence, 0) "
                   "ORDER BY c.plane, c.block, c.sequence")
        with self._database.snapshot() as connection:
            self._seen = int(connection.execute("SELECT IFNULL(MAX(sequence), 0) FROM strokes").fetchone()[0])
            stored = connection.execute("SELECT plane, block, content FROM blocks WHERE image = ?", (self._image,))
            self._blocks = {(plane, number): content for plane, number, content in stored}
            for plane, number, change in connection.execute(pending, (self._image,)):
                self._pending.setdefault((plane, number), []).append(change)
        self._n_since_fold = {key: len(changes) for key, changes in self._pending.items()}

    def _block(self, plane: str, number: int) -> bytes:
        """A block as this window has it, encoded."""
        key = plane, number
        with self._lock:
            if key in self._pending:
                self._blocks[key] = self._applied(self._blocks.get(key, EMPTY), self._pending.pop(key), number)
            return self._blocks.get(key, EMPTY)

    def _applied(self, block: bytes, changes: Iterable[bytes], number: int) -> bytes:
        """A block after changes; one that is damaged is left out, and said."""
        shape = extent(self.grid.place(number))
        try:
            values = decode_block(block, shape)
        except _DAMAGE:
            values = np.zeros(shape, np.int32)
            self._tell_damage()
        for change in changes:
            try:
                apply_change(change, values)
            except _DAMAGE:
                self._tell_damage()
        return encode_block(values)

    def _tell_damage(self) -> None:
        sentence = f"A part of {self._database.path.name} cannot be read; the strokes in it are missing."
        if sentence not in self._database.notices:
            self._database.notices.append(sentence)

    def _differences(self, plane: str, values: NDArray[Any], box: Box) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Blocks in which `values` differ: number, how many voxels, the change, the block as it is now."""
        if values.dtype.kind not in "biu":
            raise JournalError(f"The labels hold {values.dtype} values, but labels are whole numbers; convert them, "
                               "for example with labels.astype('int32').")
        for number, shared, local in self.grid.touching(box):
            now = values[shifted(shared, box)]
            block = self._block(plane, number)
            constant = constant_of(block)
            if constant is not None and (now == constant).all():
                continue
            shape = extent(self.grid.place(number))
            stored = decode_block(block, shape)
            differs = np.zeros(shape, bool)
            np.not_equal(stored[local], now, out=differs[local])
            index = np.flatnonzero(differs)
            if not len(index):
                continue
            _check_range(now, plane)
            old = stored.reshape(-1)[index]
            stored[local] = now
            yield number, len(index), encode_change(index, old, stored.reshape(-1)[index]), encode_block(stored)

    def _store(self, changes: Mapping[tuple[str, int], bytes], tool: str, n_voxels: int) -> Stroke:
        """One transaction: the stroke, its changes, and the whole of each block that has many of them."""
        n_bytes = sum(map(len, changes.values())) + 200 * len(changes)
        now_s = time.time()
        folded = []
        with self._database.transaction(n_bytes) as connection:
            cursor = connection.execute(
                "INSERT INTO strokes (image, time_s, tool, author, n_voxels) VALUES (?, ?, ?, ?, ?)",
                (self._image, now_s, tool, self.author, n_voxels))
            sequence = int(cursor.lastrowid or 0)
            for (plane, number), change in changes.items():
                connection.execute("INSERT INTO changes (image, plane, block, sequence, change) VALUES (?, ?, ?, ?, ?)",
                                   (self._image, plane, number, sequence, change))
                if self._n_since_fold.get((plane, number), 0) + 1 >= _FOLD_EVERY:
                    connection.execute("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?, ?, ?)", (
                        self._image, plane, number, sequence, self._merged(connection, plane, number)))
                    folded.append((plane, number))
        for key in changes:
            self._n_since_fold[key] = 0 if key in folded else self._n_since_fold.get(key, 0) + 1
        return Stroke(sequence, self.identity.checksum, now_s, tool, self.author, n_voxels)

    def _merged(self, connection: sqlite3.Connection, plane: str, number: int) -> bytes:
        """A block as all strokes of all windows together give it, encoded."""
        key = self._image, plane, number
        row = connection.execute("SELECT sequence, content FROM blocks WHERE image = ? AND plane = ? AND block = ?",
                                 key).fetchone()
        sequence, content = row or (0, EMPTY)
        changes = connection.execute("SELECT change FROM changes WHERE image = ? AND plane = ? AND block = ? AND "
                                     "sequence > ? ORDER BY sequence", (*key, sequence))
        return self._applied(content, (change for (change,) in changes), number)


def _check_range(values: NDArray[Any], plane: str) -> None:
    """Labels that the journal can hold; marks have a sign."""
    low, high = int(values.min()), int(values.max())
    if plane != "marks" and not 0 <= low <= high <= MAX_LABEL:
        raise JournalError(f"The labels go from {low:,} to {high:,}, but 0 to {MAX_LABEL:,} can be kept; number them "
                           "anew.")


def _times(shape: Sequence[int]) -> str:
    """A shape for people."""
    return " x ".join(map(str, shape))
