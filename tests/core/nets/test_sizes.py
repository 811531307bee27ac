"""Which sizes fit a network."""

import pytest

from mambaseg.nets.sizes import SizeRule


@pytest.mark.parametrize(("rule", "size", "fitting"), [
    (SizeRule(32), (64, 96), (64, 96)), (SizeRule(32), (1, 65), (32, 96)),
    (SizeRule(32, square=True), (64, 96), (96, 96)), (SizeRule(16, square=True), (16, 16), (16, 16)),
])
def test_fit_is_the_smallest_size_around_the_image(rule: SizeRule, size: tuple[int, ...],
                                                   fitting: tuple[int, ...]) -> None:
    assert rule.fit(size) == fitting
    rule.check(fitting)


def test_a_size_that_does_not_fit_is_named_with_the_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"multiples of 32, all equal, not 64 x 100; pad the image to 128 x 128"):
        SizeRule(32, square=True).check((64, 100))
