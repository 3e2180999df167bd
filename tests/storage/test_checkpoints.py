import pytest

from models import ModelError
from storage import checkpoint_path, checkpoints, partial_path, prune, publish, verify, write_checksums


def save(run, step, text="weights"):
    partial = partial_path(run, step)
    (partial / "nested").mkdir(parents=True)
    (partial / "model.safetensors").write_text(text)
    (partial / "nested" / "state.bin").write_text("state")
    write_checksums(partial)
    publish(partial, checkpoint_path(run, step))
    return checkpoint_path(run, step)


def test_a_published_checkpoint_is_found_and_verified(tmp_path):
    assert checkpoints(tmp_path) == []
    for step in (300, 20, 100_000_000):
        save(tmp_path, step)
    assert checkpoints(tmp_path) == [20, 300, 100_000_000]
    sums = verify(checkpoint_path(tmp_path, 300))
    assert sorted(sums) == ["model.safetensors", "nested/state.bin"]
    assert len(sums["model.safetensors"]) == 64


def test_what_an_interrupted_save_left_is_no_checkpoint_and_is_replaced(tmp_path):
    partial = partial_path(tmp_path, 20)
    partial.mkdir(parents=True)
    (partial / "rubbish").write_text("half")
    assert checkpoints(tmp_path) == []
    assert not (save(tmp_path, 20) / "rubbish").exists()


def test_damage_is_refused(tmp_path):
    checkpoint = save(tmp_path, 20)
    (checkpoint / "nested" / "state.bin").write_text("State")
    verify(checkpoint, ["model.safetensors"])
    with pytest.raises(ModelError, match=r"damaged: nested/state.bin does not match"):
        verify(checkpoint)
    (checkpoint / "nested" / "state.bin").unlink()
    with pytest.raises(ModelError, match=r"lacks nested/state.bin"):
        verify(checkpoint)
    with pytest.raises(ModelError, match=r"no checksum for other.safetensors"):
        verify(checkpoint, ["other.safetensors"])
    (checkpoint / "checksums.json").write_text("{")
    with pytest.raises(ModelError, match=r"no readable checksums.json"):
        verify(checkpoint)
    (checkpoint / "checksums.json").unlink()
    with pytest.raises(ModelError, match=r"no readable checksums.json"):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("checksums", "said"),
    [
        ("{}", "has no checksum for model.safetensors"),
        ("[]", "does not list files with their sha256"),
        ("null", "does not list files with their sha256"),
        ("5", "does not list files with their sha256"),
        ('[["a"]]', "does not list files with their sha256"),
        ('{"model.safetensors": 5}', "does not list files with their sha256"),
        ('{"model.safetensors": "5"}', "does not list files with their sha256"),
        ("[" * 100_000, "no readable checksums.json"),
    ],
)
@pytest.mark.parametrize("files", [None, ["model.safetensors"]])
def test_checksums_that_are_none_verify_nothing(tmp_path, checksums, said, files):
    checkpoint = save(tmp_path, 20)
    (checkpoint / "checksums.json").write_text(checksums)
    with pytest.raises(ModelError, match=said):
        verify(checkpoint, files)


def test_files_without_a_checksum_are_refused(tmp_path):
    checkpoint = save(tmp_path, 20)
    (checkpoint / "custom_checkpoint_0.pkl").write_text("stray")
    with pytest.raises(ModelError, match=r"no checksum for custom_checkpoint_0.pkl"):
        verify(checkpoint)


def test_a_folder_of_another_name_and_a_file_are_no_checkpoints(tmp_path):
    save(tmp_path, 20)
    (tmp_path / "checkpoints" / "step-0000000020").mkdir()
    (tmp_path / "checkpoints" / "step-20").mkdir()
    assert checkpoints(tmp_path) == [20]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checkpoints").write_text("")
    with pytest.raises(ModelError, match=r"must be a folder of checkpoints and is a file"):
        checkpoints(tmp_path / "other")


def test_a_checkpoint_is_never_overwritten(tmp_path):
    save(tmp_path, 20, "first")
    with pytest.raises(ModelError, match="already exists"):
        save(tmp_path, 20, "second")
    assert (checkpoint_path(tmp_path, 20) / "model.safetensors").read_text() == "first"


def test_the_oldest_are_pruned(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    assert prune(tmp_path, 2) == [1, 2]
    assert checkpoints(tmp_path) == [3, 4]
    assert prune(tmp_path, 2) == []
    assert prune(tmp_path, 1, spare=[3]) == []
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    with pytest.raises(ModelError, match="keep must be at least 1"):
        prune(tmp_path, 0)
