import pytest

from models import ModelError
from models.patterns import parse, tile, windows


@pytest.mark.parametrize(
    ("pattern", "period"),
    [
        ("softmax", ["softmax"]),
        ("softmax*1,swat*3", ["softmax", "swat", "swat", "swat"]),
        (" a , b * 2 ", ["a", "b", "b"]),
    ],
)
def test_a_pattern_is_written_out(pattern, period):
    assert parse(pattern) == period


@pytest.mark.parametrize(
    "pattern", ["", " ", "a,", ",a", "a*", "*3", "a*0", "a*-1", "a*x", "a*1.5", "a*2*3", "a*²"]
)
def test_an_unreadable_pattern_is_refused(pattern):
    with pytest.raises(ModelError, match="cannot read"):
        parse(pattern)


def test_a_pattern_repeats_down_the_model_and_may_end_mid_period():
    assert tile("a*1,b*2", 7) == ["a", "b", "b", "a", "b", "b", "a"]
    assert tile("a", 3) == ["a"] * 3


def test_a_pattern_longer_than_the_model_is_refused():
    with pytest.raises(ModelError, match="spans 4 layers, the model has 3"):
        tile("a*1,b*3", 3)


def test_windows_by_layer():
    assert windows(None, 2) == [None, None]
    assert windows("128", 2) == [128, 128]
    assert windows("none*1,16*2", 4) == [None, 16, 16, None]


@pytest.mark.parametrize("pattern", ["0", "-3", "some", "1.5", "none*1,0"])
def test_a_window_that_is_no_positive_integer_is_refused(pattern):
    with pytest.raises(ModelError, match="must be 'none' or a positive number"):
        windows(pattern, 4)
