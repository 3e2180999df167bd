"""Names of implementations, with options."""

import pytest

import attention
from attention import AttentionError, get
from attention.transformers import AUTO, implementation, mechanism_of
from tests.attention.conftest import every_mechanism, label


@pytest.mark.parametrize("mechanism", every_mechanism(), ids=label)
def test_every_mechanism_has_a_name_that_says_all_of_it(mechanism):
    name = implementation(mechanism)
    assert mechanism_of(name) == mechanism
    assert not any(word in name for word in ("/", "flash", "sdpa", "flex_attention", "paged"))  # mean others


def test_defaults_are_not_written():
    assert implementation("lssar") == "zoo:lssar"
    assert implementation("lssar", power=3) == implementation(get("lssar", power=3)) == "zoo:lssar?power=3"
    assert mechanism_of("zoo:lssar?power=3&epsilon=1e-6") == get("lssar", power=3, epsilon=1e-6)
    assert mechanism_of("zoo:swat?window=null&slopes=decay") == get("swat", window=None, slopes="decay")
    assert mechanism_of(AUTO) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("softpick", "begins with 'zoo:'"),
        ("zoo:softpik", "did you mean 'softpick'"),
        ("zoo:lssar?powr=3", "did you mean 'power'"),
        ("zoo:lssar?power=big", "power must be a finite number"),
        ("zoo:lssar?power", "option=value"),
        ("zoo:lssar?=3", "option=value"),
        ("zoo:auto?power=3", "unknown mechanism 'auto'"),
        (None, "begins with 'zoo:'"),
    ],
)
def test_what_is_no_name_is_refused(name, words):
    with pytest.raises(AttentionError, match=words):
        mechanism_of(name)


def test_names_are_registered_all():
    import transformers

    attention.transformers.register()
    known = transformers.AttentionInterface().valid_keys()
    assert {AUTO, *(f"zoo:{name}" for name in attention.names())} <= set(known)
