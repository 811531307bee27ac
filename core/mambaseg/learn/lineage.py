"""The models of a project: which came from which, what they learned from, and the way back to any of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mambaseg import words
from mambaseg._errors import ModelError, UserError
from mambaseg.learn.journal_database import Database
from mambaseg.models import Model, copy_package, read_model

__all__ = ["Lineage", "Version", "can_teach"]


@dataclass(frozen=True)
class Version:
    """One model of a lineage.

    Parameters
    ----------
    number : in the project, from 1, never used twice
    parent : number of the model it was made from; None: where the lineage begins
    title : for people: the model's own for the first, "mine, 20 Nov" for those made here
    folder : its package, relative to the folder of models
    checksum : of its weights
    parent_checksum : of its parent's weights; empty for the first
    made_s : when, in seconds since 1970
    state : "candidate" until the user keeps it, then "kept"
    learned_from : plain values: images (checksums), n_corrected, n_confirmed, sequence (the journal's last stroke)
    scores : plain values: before, after and what else was judged
    """

    number: int
    parent: int | None
    title: str
    folder: str
    checksum: str
    parent_checksum: str
    made_s: float
    state: str = "kept"
    learned_from: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)


def can_teach(corrected: Model, learner: Model) -> bool:
    """Whether what was corrected in one model's results says something to another: the labels mean the same to both.

    So a model learns, too, from images that still show what a model before it found; it may have more classes by now.
    """
    return (corrected.kind == learner.kind and corrected.channels == learner.channels
            and learner.classes[:len(corrected.classes)] == corrected.classes)


class Lineage:
    """The models of one project. A change is one transaction: after a crash there is the old lineage or the new one.

    Parameters
    ----------
    database : of the project
    folder : where the packages are
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self.folder = folder

    def start(self, model: Model) -> Version:
        """Make a model the one that the project works with, as the beginning of a lineage of its own.

        Its package is copied, so that the way back does not depend on other folders. A model that is there already
        (by checksum) is taken as it is.

        Raises
        ------
        UserError : the model was never saved, or there is no room for the copy
        """
        known = next((version for version in self.versions() if version.checksum == model.checksum), None)
        if known is not None:
            return self.go_back(known.number)
        begun = Version(0, None, model.title, "", "", "", time.time())
        return self._add(lambda folder: copy_package(model, folder), begun, make_current=True)

    def add(self, save: Callable[[Path], object], learned_from: Mapping[str, Any] | None = None,
            scores: Mapping[str, Any] | None = None, title: str | None = None) -> Version:
        """A model made here, as a candidate: the current one stays current until `keep`.

        Parameters
        ----------
        save : writes the package to the folder it is given (a fine-tuned model's `save`); the package names its parent
        learned_from, scores : plain values, see `Version`
        title : for people; None: "mine, 20 Nov"

        Raises
        ------
        ModelError : the package's parent is not among the models of this project
        """
        made_s = time.time()
        entry = Version(0, None, title or f"mine, {words.day(made_s)}", "", "", "", made_s, "candidate",
                        dict(learned_from or {}), dict(scores or {}))
        return self._add(save, entry, make_current=False)

    def keep(self, number: int) -> Version:
        """Make a candidate the current model."""
        version = dataclasses.replace(self[number], state="kept")
        with self._database.transaction() as connection:
            connection.execute("UPDATE models SET about = ? WHERE number = ?", (_to_json(version), number))
            _make_current(connection, number)
        return version

    def discard(self, number: int) -> Version:
        """Remove a model and its package; its parent is current where it was.

        Returns
        -------
        The current model

        Raises
        ------
        UserError : others were made from it, or it is where the lineage begins
        """
        version = self[number]
        heirs = [other.title for other in self.versions() if other.parent == number]
        if version.parent is None or heirs:
            reason = f'"{heirs[0]}" was made from it' if heirs else "the lineage begins with it"
            raise UserError(f'"{version.title}" cannot be discarded: {reason}. Discard the later ones first.')
        with self._database.transaction() as connection:
            current = _current(connection)
            connection.execute("DELETE FROM models WHERE number = ?", (number,))
            if current == number:
                _make_current(connection, version.parent)
        shutil.rmtree(self.folder / version.folder, ignore_errors=True)
        return self.current or version

    def go_back(self, number: int) -> Version:
        """Make any model of the project the current one; the others stay."""
        return self.keep(number)

    @property
    def current(self) -> Version | None:
        """The model that the project works with; None before `start`."""
        with self._database.snapshot() as connection:
            number = _current(connection)
        return None if number is None else self[number]

    def versions(self) -> list[Version]:
        """All models, the oldest first."""
        with self._database.snapshot() as connection:
            rows = connection.execute("SELECT number, about FROM models ORDER BY number").fetchall()
        return [Version(**json.loads(about) | {"number": number}) for number, about in rows]

    def chain(self, number: int | None = None) -> list[Version]:
        """A model (None: the current one) and what it came from, the first one first."""
        known = {version.number: version for version in self.versions()}
        current = self.current
        at = number if number is not None else current.number if current else None
        chain: list[Version] = []
        while at is not None:
            chain.insert(0, known[at])
            at = known[at].parent
        return chain

    def line(self) -> str:
        """The way to the current model for people: "Nuclei (2-D) > mine, 20 Nov > mine, 21 Nov"."""
        return " > ".join(version.title for version in self.chain())

    def path(self, version: Version) -> Path:
        """The package of a model, for `mambaseg.load_model`."""
        return self.folder / version.folder

    def check(self) -> None:
        """Whether every package is the one that was written down, and every parent's checksum that of its parent.

        Raises
        ------
        ModelError : one is not; the sentence names it
        """
        known = {version.number: version for version in self.versions()}
        for version in known.values():
            found = read_model(self.path(version)).checksum
            parent = known[version.parent].checksum if version.parent is not None else ""
            if found != version.checksum or parent != version.parent_checksum:
                raise ModelError(f'"{version.title}" in {self.path(version)} is not the model that was written down '
                                 "when it was made; discard it or get the folder back from a backup.")

    def __getitem__(self, number: int) -> Version:
        """The model of this number; KeyError where there is none."""
        found = next((version for version in self.versions() if version.number == number), None)
        if found is None:
            raise KeyError(number)
        return found

    def _add(self, save: Callable[[Path], object], entry: Version, *, make_current: bool) -> Version:
        """Save the package under a name of its own, then write it down: a crash in between leaves the old lineage."""
        self._sweep()
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            save(folder)
            model = read_model(folder)
            entry = dataclasses.replace(entry, folder=name, checksum=model.checksum)
            if entry.state == "candidate":
                parent = self._parent_of(model)
                entry = dataclasses.replace(entry, parent=parent.number, parent_checksum=parent.checksum)
            with self._database.transaction() as connection:
                cursor = connection.execute("INSERT INTO models (about) VALUES (?)", (_to_json(entry),))
                entry = dataclasses.replace(entry, number=int(cursor.lastrowid or 0))
                if make_current:
                    _make_current(connection, entry.number)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return entry

    def _parent_of(self, model: Model) -> Version:
        wanted = (model.parent or {}).get("checksum")
        found = [version for version in self.versions() if version.checksum == wanted]
        if not found:
            raise ModelError(f'Model "{model.name}" was not made from a model of this project; start the project with '
                             "its parent first.")
        return found[-1]

    def _sweep(self) -> None:
        """Remove packages that nobody wrote down: of a program that died while it added one, an hour ago or more."""
        known = {version.folder for version in self.versions()}
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            with contextlib.suppress(OSError):
                if path.is_dir() and path.name not in known and time.time() - path.stat().st_mtime > 3600:
                    shutil.rmtree(path)


def _to_json(version: Version) -> str:
    values = dataclasses.asdict(version)
    values.pop("number")
    return json.dumps(values, allow_nan=False)


def _current(connection: sqlite3.Connection) -> int | None:
    row = connection.execute("SELECT value FROM state WHERE name = 'current_model'").fetchone()
    return int(row[0]) if row else None


def _make_current(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("INSERT OR REPLACE INTO state VALUES ('current_model', ?)", (number,))
