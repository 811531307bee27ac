"""The errors that reach a person: one sentence each, no traceback."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """A mistake in what was given: a file, a name, an option, an array.

    The message says what was given, what was expected and what to do about it. Front ends show it as it is.
    """


class ImageError(UserError):
    """A picture or volume cannot be read, understood or written."""


class ModelError(UserError):
    """A model is unknown, broken, or does not fit the image given."""


class DatasetError(UserError):
    """A training or evaluation folder is incomplete or contradicts itself."""


class DatasetProblems(DatasetError):  # noqa: N818 - many in one
    """Everything that is wrong with a data set, at once.

    Parameters
    ----------
    path : of the data set
    problems : a sentence each, with file names; at least one
    """

    def __init__(self, path: object, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        n = len(self.problems)
        self.headline = f"{path} cannot be used as it is; {n} problem{'s' if n > 1 else ''} found"
        super().__init__(f"{self.headline}: {'; '.join(self.problems)}.")


class MissingPackageError(UserError):
    """An optional package is needed; the message names the extra that brings it."""


class Cancelled(Exception):  # noqa: N818 - a request of the user's, not an error
    """Raised by a progress callback to stop the work; nothing half-written is left behind."""
