"""The SQLite file behind a journal: opened safely, written in whole transactions, rescued where it is damaged."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mambaseg._errors import UserError

__all__ = ["Database", "JournalError"]

_BUSY_S = 20.0
_SCHEMA_VERSION = 1
_MAX_CUT_BYTES = 2**30  # a header that claims more is itself damaged
_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (image INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, about TEXT NOT NULL,
    added_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS strokes (sequence INTEGER PRIMARY KEY AUTOINCREMENT, image INTEGER NOT NULL,
    time_s REAL NOT NULL, tool TEXT NOT NULL, author TEXT NOT NULL, n_voxels INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS changes (number INTEGER PRIMARY KEY, image INTEGER NOT NULL, plane TEXT NOT NULL,
    block INTEGER NOT NULL, sequence INTEGER NOT NULL, change BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS changes_by_block ON changes (image, plane, block, sequence);
CREATE INDEX IF NOT EXISTS changes_by_sequence ON changes (sequence);
CREATE TABLE IF NOT EXISTS blocks (image INTEGER NOT NULL, plane TEXT NOT NULL, block INTEGER NOT NULL,
    sequence INTEGER NOT NULL, content BLOB NOT NULL, PRIMARY KEY (image, plane, block));
CREATE TABLE IF NOT EXISTS models (number INTEGER PRIMARY KEY AUTOINCREMENT, about TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_TABLES = ("images", "strokes", "changes", "blocks", "models", "state")


class JournalError(UserError):
    """Corrections cannot be kept or read; the sentence names the file."""


class Database:
    """One connection to a project's SQLite file, for all threads of this process.

    Write-ahead logging with ``synchronous = FULL``: a transaction that has returned is on the disk, and a reader never
    waits for a writer. A file that is damaged is set aside under another name and what is readable is carried over.

    Parameters
    ----------
    path : the file; made, with its folder, where it is missing

    Attributes
    ----------
    notices : sentences for people about what had to be rescued; empty nearly always

    Raises
    ------
    JournalError : the file cannot be opened or made, or comes from a later version of the program
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.notices: list[str] = []
        self._lock = threading.RLock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"{self.path.parent} cannot be made ({error.strerror}); choose another place for the "
                               "project.") from error
        try:
            self._connection = _open(self.path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise self._explained(error, 0) from error
            self._connection = self._rescue()
        self._check_version()

    def close(self) -> None:
        """Fold the write-ahead log into the file, as far as no other program reads it, and close."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self, n_bytes: int = 0) -> Iterator[sqlite3.Connection]:
        """A block whose writes are on the disk when it ends, or leave no trace where it raises.

        Parameters
        ----------
        n_bytes : about how much will be written, for the message when there is no room

        Raises
        ------
        JournalError : no room, no permission, or another program held the file for 20 s; what was there is whole
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise self._explained(error, n_bytes) from error
            except BaseException:
                self._roll_back()
                raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A block whose reads all see the same moment, whatever other programs write meanwhile.

        Raises
        ------
        JournalError : the file cannot be read
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN")
                yield self._connection
            except sqlite3.Error as error:
                raise self._explained(error, 0) from error
            finally:
                self._roll_back()

    def _check_version(self) -> None:
        with self.snapshot() as connection:
            version = connection.execute("SELECT value FROM state WHERE name = 'schema'").fetchone()[0]
        if version != _SCHEMA_VERSION:
            self.close()
            raise JournalError(f"{self.path} was written by a later version of the program (form {version}, this one "
                               f"reads {_SCHEMA_VERSION}); update mambaseg.")

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # after a full disk SQLite may have rolled back by itself
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _explained(self, error: sqlite3.Error, n_bytes: int) -> JournalError:
        """The sentence for what SQLite reports."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            needed = f" (about {n_bytes:,} bytes are wanted)" if n_bytes else ""
            return JournalError(f"{self.path} cannot be written{needed}: the disk is full or failed. Make room and go "
                                "on; what was saved before is whole.")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return JournalError(f"{self.path} has been held by another program for {_BUSY_S:.0f} s; close that "
                                "program and try again.")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            return JournalError(f"{self.path} cannot be opened for writing ({error}); check the folder's permissions "
                                "or choose another place.")
        return JournalError(f"{self.path} cannot be used ({error}); close the project and open it again to rescue "
                            "what is in it.")

    def _rescue(self) -> sqlite3.Connection:
        """Keep the damaged file under another name, and carry over every row that can still be read."""
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        aside = self.path.with_name(f"{self.path.stem}.damaged-{stamp}{self.path.suffix}")
        rescued = self.path.with_name(f"{self.path.stem}.rescued-{stamp}{self.path.suffix}")
        try:
            for ending in ("", "-wal"):
                if _beside(self.path, ending).exists():
                    shutil.copyfile(_beside(self.path, ending), _beside(aside, ending))
            n_strokes = _copy_readable(aside, rescued)
            for ending in ("-wal", "-shm"):
                _beside(self.path, ending).unlink(missing_ok=True)
            rescued.replace(self.path)  # a crash before this line leaves the damaged file to be rescued again
            connection = _open(self.path)
        except (sqlite3.Error, OSError) as error:
            for half in (*self.path.parent.glob(f"{aside.name}*"), *self.path.parent.glob(f"{rescued.name}*")):
                half.unlink(missing_ok=True)
            raise JournalError(f"{self.path} is damaged and could not be rescued ({error}); make room beside it and "
                               "open the project again.") from error
        self.notices.append(f"{self.path.name} was damaged: {n_strokes:,} strokes were rescued, and the damaged file "
                            f"is kept as {aside.name}.")
        return connection


def _open(path: Path) -> sqlite3.Connection:
    """A connection to a file that was found whole, its tables made."""
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")  # stays another mode where the file system cannot do it
        connection.execute("PRAGMA synchronous = FULL")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise sqlite3.DatabaseError("malformed: " + str(found[0]))
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute("INSERT OR IGNORE INTO state VALUES ('schema', ?)", (_SCHEMA_VERSION,))
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or str(error).startswith("malformed")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _copy_readable(damaged: Path, rescued: Path) -> int:
    """Write what can be read of a damaged file to a new one; the number of strokes there."""
    _lengthen(damaged)
    with contextlib.closing(_open(rescued)) as whole, contextlib.closing(
            sqlite3.connect(damaged, isolation_level=None)) as source:
        whole.execute("BEGIN IMMEDIATE")
        for table in _TABLES:
            _carry_over(source, whole, table)
        whole.execute("COMMIT")
        return int(whole.execute("SELECT COUNT(*) FROM strokes").fetchone()[0])


def _lengthen(path: Path) -> None:
    """Bring a file that was cut off to the length in its header with zeros: SQLite reads no row of a shorter one."""
    with path.open("rb") as file:
        header = file.read(32)
    if header.startswith(b"SQLite format 3") and len(header) == 32:
        page_bytes = int.from_bytes(header[16:18], "big")
        n_bytes = (65536 if page_bytes == 1 else page_bytes) * int.from_bytes(header[28:32], "big")
        if 0 < n_bytes - path.stat().st_size < _MAX_CUT_BYTES:
            os.truncate(path, n_bytes)


def _carry_over(damaged: sqlite3.Connection, whole: sqlite3.Connection, table: str) -> None:
    """Copy the rows of a table from its first on until one cannot be read, then from its last back to there."""
    for order in ("ASC", "DESC"):
        is_complete = True
        for row in _readable_rows(damaged, table, order):
            if row is None:
                is_complete = False
                break
            marks = ", ".join("?" * len(row))
            whole.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608 - own names
        if is_complete:
            return


def _readable_rows(damaged: sqlite3.Connection, table: str, order: str) -> Iterator[tuple[object, ...] | None]:
    """The rows of a table; None, as the last, where one cannot be read."""
    try:
        yield from damaged.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY rowid {order}")  # noqa: S608
    except sqlite3.DatabaseError:
        yield None
