"""The folder of what is made once: attention and data import nothing of one another, and agree on it."""

import os

import pytest

from attention.core.cache import cache_directory, open_folder
from common.files import cache_root


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ATTENTION_ZOO_CACHE": "{here}/a/b"}, "a/b"),
        ({"ATTENTION_ZOO_CACHE": "~/b"}, "home/b"),
        ({"ATTENTION_ZOO_CACHE": "", "XDG_CACHE_HOME": "{here}/x"}, "x/attention-zoo"),
        ({"XDG_CACHE_HOME": "relative"}, "home/.cache/attention-zoo"),
        ({"XDG_CACHE_HOME": ""}, "home/.cache/attention-zoo"),
        ({}, "home/.cache/attention-zoo"),
    ],
)
def test_one_rule_says_where_kernels_and_corpora_are_kept(tmp_path, monkeypatch, variables, expected):
    for name in ("ATTENTION_ZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "{here}/home", **variables}.items():
        monkeypatch.setenv(name, value.format(here=tmp_path))
    umask = os.umask(0)
    try:
        assert cache_root() == cache_directory() == tmp_path / expected
    finally:
        os.umask(umask)
    assert cache_root().stat().st_mode & 0o777 == 0o700
    open_folder(cache_directory())
