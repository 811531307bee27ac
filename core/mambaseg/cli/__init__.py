"""The command line: `mambaseg segment`, `demo`, `models`, `train`, `evaluate`, `bench`.

One file a command. Nothing here brings torch until a command needs it, so that `mambaseg --help` is quick.
"""

from mambaseg.cli._app import app, main

__all__ = ["app", "main"]
