import pytest

from mambaseg._errors import UserError
from mambaseg.train.split import Split, folds, split_of_fold

NAMES = [f"case_{i:02d}" for i in range(12)]


def test_every_case_is_held_out_once_and_order_does_not_matter():
    made = folds(NAMES)
    assert sorted(name for split in made for name in split.val) == NAMES
    assert all(sorted([*split.train, *split.val]) == NAMES for split in made)
    assert [len(split.val) for split in made] == [3, 3, 2, 2, 2]
    assert folds(NAMES[::-1]) == made


def test_too_few_cases_cannot_be_split():
    with pytest.raises(ValueError, match="4 cases"):
        folds(NAMES[:4])


def test_beyond_the_last_fold_four_fifths_train():
    beyond = split_of_fold(NAMES, 7)
    assert len(beyond.train) == 9
    assert sorted([*beyond.train, *beyond.val]) == NAMES
    assert beyond != split_of_fold(NAMES, 8)


def test_all_holds_nothing_out():
    names = [f"case{n}" for n in range(7)]
    assert split_of_fold(names[::-1], "all") == (names, [])
    assert split_of_fold(names, "1") == split_of_fold(names, 1)
    with pytest.raises(UserError, match="give a number from 0 on, or all"):
        split_of_fold(names, "every")


def test_given_splits_win():
    own = Split(NAMES[:2], NAMES[2:])
    assert split_of_fold(NAMES, 0, [own]) is own
