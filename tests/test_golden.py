import json
from pathlib import Path

import numpy as np
import pytest

import golden
import golden_predicting
from golden_compare import HALF_TOLERANCE, near

REPRODUCED = tuple(golden.KINDS)


def test_a_few_fixtures_of_nnunet_are_reproduced_on_any_checkout(root: Path, capsys: pytest.CaptureFixture[str]):
    assert golden.main([str(root / "tests/data/nnunet")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.endswith(" ok") for line in lines)


@pytest.mark.parametrize("kind", REPRODUCED)
def test_all_fixtures_of_nnunet_are_reproduced(shared: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    assert golden.main([str(shared / "nnunet"), kind]) == 0, capsys.readouterr().out


def test_a_wrong_number_fails(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps = json.loads((root / "tests/data/nnunet/sliding/steps.json").read_text())
    steps[3]["steps"][0][-1] += 1
    path = tmp_path / "steps.json"
    path.write_text(json.dumps(steps))
    assert [check.difference for check in golden_predicting.steps(path)] == [1]


def test_a_kind_that_nothing_runs_is_unknown_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "horoscope").mkdir()
    assert golden.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "horoscope - - unknown\n"


def test_a_file_of_no_kind_is_passed_over(tmp_path: Path):
    (tmp_path / "notes.json").write_text("{}")
    assert golden.main([str(tmp_path)]) == 0


def test_arrays_in_half_precision_are_held_to_what_they_can_tell():
    want = np.array([1.0, 500.0])
    assert near("image", want + 1e-3, want, 2e-5)[0].passes is False
    (check,) = near("image", want + 1e-3, want.astype(np.float16), 2e-5)
    assert check.tolerance == HALF_TOLERANCE
    assert check.passes
    assert not near("image", want * 1.01, want.astype(np.float16), 2e-5)[0].passes
    assert near("image", want, None, 2e-5) == []
