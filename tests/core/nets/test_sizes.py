"""Which sizes fit a network."""

import pytest

from mambaseg.nets.sizes import SizeRule


@pytest.mark.parametrize(("rule", "size", "fitting"), [
    (SizeRule(32), (64, 96), (64, 96)), (SizeRule(32), (1, 65), (32, 96)),
    (SizeRule(32, square=True), (64, 96), (96, 96)), (SizeRule(16, square=True), (16, 16), (16, 16)),
    (SizeRule((2, 8, 8)), (3, 8, 9), (4, 8, 16)), (SizeRule(32, least_cells=2), (20, 32), (32, 64)),
    (SizeRule(32, least_cells=2, square=True), (20, 32), (64, 64)), (SizeRule(16, exact=(32, 48)), (7, 9), (32, 48)),
])
def test_fit_is_the_smallest_size_around_the_image(rule: SizeRule, size: tuple[int, ...],
                                                   fitting: tuple[int, ...]) -> None:
    assert rule.fit(size) == fitting
    rule.check(fitting)


def test_a_size_that_does_not_fit_is_named_with_the_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"multiples of 32, all equal, not 64 x 100; pad the image to 128 x 128"):
        SizeRule(32, square=True).check((64, 100))


@pytest.mark.parametrize(("rule", "size", "said"), [
    (SizeRule((2, 8)), (3, 8), r"multiples of 2 x 8, not 3 x 8; pad the image to 4 x 8"),
    (SizeRule((2, 8)), (4, 8, 8), "images of 2 axes, not 3"),
    (SizeRule(16, exact=(32, 48)), (48, 32), "images of 32 x 48 only, not 48 x 32"),
    (SizeRule(16, exact=(32, 48)), (32,), "images of 2 axes, not 1")])
def test_rules_by_axis_and_of_one_size_speak_of_theirs(rule: SizeRule, size: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rule.check(size)
