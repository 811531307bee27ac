"""A small model that knows bright discs, for tests of learning something new."""

from __future__ import annotations

import pytest

from mambaseg.bench.small import train_small
from mambaseg.models import Model, load_model


@pytest.fixture(scope="session")
def discs_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Knows bright discs on a dark ground."""
    folder = tmp_path_factory.mktemp("learn") / "discs"
    train_small(folder, 60)
    return load_model(folder)
