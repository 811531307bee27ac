"""The errors that reach a person: one sentence each, no traceback."""


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


class MissingPackageError(UserError):
    """An optional package is needed; the message names the extra that brings it."""


class Cancelled(Exception):  # noqa: N818 - a request of the user's, not an error
    """Raised by a progress callback to stop the work; nothing half-written is left behind."""
