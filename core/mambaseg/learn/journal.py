"""The journal: every stroke on the disk before the front end answers, and every array given back from it.

A front end hands over the labels *as they are now* whenever something may have changed; the journal finds what differs
from what it has, block by block. So undo, redo, fills, scripts and whatever else a host does without telling are
strokes like any other, and replaying the strokes in their order gives the array.

    journal = Journal(folder / "journal.sqlite")
    view = journal.view(identify(image))
    stroke = view.record(layer.data, tool="brush", box=(slice(100, 140), slice(80, 120)))    # on the disk now

An image has three planes of the same shape: "labels" (what the user sees), "baseline" (the prediction they are compared
with) and "marks" (what was confirmed or corrected earlier; see `mambaseg.learn.corrections`).
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambaseg.learn.journal_blocks import BlockGrid, apply_change, decode_change, extent
from mambaseg.learn.journal_database import Database, JournalError
from mambaseg.learn.journal_entries import PLANES, ImageIdentity, Stroke, identify
from mambaseg.learn.journal_view import View

__all__ = ["PLANES", "ImageIdentity", "Journal", "JournalError", "Stroke", "View", "identify"]


class Journal:
    """All strokes of an annotation project, in one SQLite file that survives crashes and two programs at once.

    Parameters
    ----------
    path : the file, or an open `Database`; made where it is missing

    Raises
    ------
    JournalError : the file cannot be opened; a damaged one can, see `notices`
    """

    def __init__(self, path: Path | str | Database) -> None:
        self.database = path if isinstance(path, Database) else Database(path)

    @property
    def notices(self) -> list[str]:
        """Sentences for people about damage that was found and what was rescued; empty nearly always."""
        return self.database.notices

    def close(self) -> None:
        """Close the file; every stroke was on the disk before."""
        self.database.close()

    def view(self, identity: ImageIdentity) -> View:
        """The image as one window has it: its state up to now, to which `View.record` adds differences."""
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO images (key, about, added_s) VALUES (?, ?, ?)",
                               (identity.checksum, identity.to_json(), time.time()))
            number = connection.execute("SELECT image FROM images WHERE key = ?", (identity.checksum,)).fetchone()[0]
        return View(self.database, int(number), identity)

    def images(self) -> list[ImageIdentity]:
        """The images that were opened in this project, the first one first."""
        with self.database.snapshot() as connection:
            rows = connection.execute("SELECT about FROM images ORDER BY image").fetchall()
        return [ImageIdentity.from_json(about) for (about,) in rows]

    def strokes(self, image: str | None = None, after: int = 0) -> list[Stroke]:
        """The strokes of an image (its checksum; None: of all) with sequence numbers above `after`, in order."""
        query = ("SELECT sequence, key, time_s, tool, author, n_voxels FROM strokes JOIN images USING (image) "
                 "WHERE sequence > ? AND (? IS NULL OR key = ?) ORDER BY sequence")
        with self.database.snapshot() as connection:
            return [Stroke(*row) for row in connection.execute(query, (after, image, image))]

    def last_stroke(self) -> Stroke | None:
        """The newest stroke; None before the first."""
        query = ("SELECT sequence, key, time_s, tool, author, n_voxels FROM strokes JOIN images USING (image) "
                 "ORDER BY sequence DESC LIMIT 1")
        with self.database.snapshot() as connection:
            row = connection.execute(query).fetchone()
        return Stroke(*row) if row else None

    def voxels(self, sequence: int, plane: str = "labels"
               ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
        """What a stroke changed.

        Returns
        -------
        places, int64 (n, axis) in array order; labels before and after, int32 (n,)
        """
        query = "SELECT image, block, change FROM changes WHERE sequence = ? AND plane = ? ORDER BY block"
        with self.database.snapshot() as connection:
            rows = connection.execute(query, (sequence, plane)).fetchall()
            shapes = {number: ImageIdentity.from_json(about).shape
                      for number, about in connection.execute("SELECT image, about FROM images")}
        places, olds, news = [np.zeros((0, 0), np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for image, block, change in rows:
            place = BlockGrid(shapes[image]).place(block)
            index, old, new = decode_change(change)
            corner = [part.start for part in place]
            places.append(np.stack(np.unravel_index(index, extent(place)), axis=1) + corner)
            olds.append(old)
            news.append(new)
        return np.concatenate(places[min(1, len(rows)):]), np.concatenate(olds), np.concatenate(news)

    def replay(self, image: str, until: int | None = None, plane: str = "labels") -> NDArray[np.int32]:
        """The array that the strokes up to sequence number `until` (None: all) give, from an empty one on.

        Raises
        ------
        KeyError : no such image in this project
        """
        shape = next((known.shape for known in self.images() if known.checksum == image), None)
        if shape is None:
            raise KeyError(image)
        grid, array = BlockGrid(shape), np.zeros(shape, np.int32)
        query = ("SELECT block, change FROM changes JOIN images USING (image) WHERE key = ? AND plane = ? "
                 "AND (? IS NULL OR sequence <= ?) ORDER BY block, sequence")
        with self.database.snapshot() as connection:
            for block, change in connection.execute(query, (image, plane, until, until)):
                place = grid.place(block)
                values = np.ascontiguousarray(array[place])
                apply_change(change, values)
                array[place] = values
        return array
