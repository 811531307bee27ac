from pathlib import Path

import pytest

import golden

REPRODUCED = ("loss", "plans", "preproc", "resample", "sliding")


def test_a_few_fixtures_of_nnunet_are_reproduced_on_any_checkout(root: Path, capsys: pytest.CaptureFixture[str]):
    assert golden.main([str(root / "tests/data/nnunet")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.endswith(" ok") for line in lines)


@pytest.mark.parametrize("kind", REPRODUCED)
def test_all_fixtures_of_nnunet_are_reproduced(shared: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    assert golden.main([str(shared / "nnunet"), kind]) == 0, capsys.readouterr().out


def test_a_wrong_number_fails(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps = golden.read(root / "tests/data/nnunet/sliding/steps.json")
    steps[3]["steps"][0][-1] += 1
    path = tmp_path / "steps.json"
    path.write_text(golden.json.dumps(steps))
    assert [check.difference for check in golden.steps(path)] == [1]


def test_a_kind_that_nothing_runs_is_unknown_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "horoscope").mkdir()
    assert golden.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == "horoscope - - unknown\n"
