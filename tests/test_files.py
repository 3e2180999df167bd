"""Files are written whole or not at all."""

import pytest

from common.explain import explain
from common.files import write, write_json
from tests.room import no_file_beyond


@pytest.mark.parametrize(
    "rewrite",
    [lambda path: write(path, "new, and longer"), lambda path: write_json(path, ["new, and longer"])],
)
def test_without_room_the_old_file_stays_and_nothing_beside_it(tmp_path, rewrite):
    path = tmp_path / "page.html"
    write(path, "old")
    with no_file_beyond(4), pytest.raises(OSError, match=r"page\.html") as refused:
        rewrite(path)
    assert explain(refused.value) == f"{path}: File too large; raise the limit of a file's size (ulimit -f)"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    rewrite(path)
    assert "new" in path.read_text()
