"""Text that comes back from a machine in archives goes on at home as if it had been written there."""

import zipfile
from pathlib import Path

import pytest

from specbound.bench.gpu import write as stage
from specbound.bench.gpu.finding import Settings
from specbound.stores.write import COUNTS_FOLDER, write, write_text
from tests.stores.test_write import config, prompts  # noqa: F401  a fixture

SHARDS = ("text/00000.parquet", "text/00001.parquet", "text/00002.parquet")


def test_what_was_packed_is_counted_elsewhere_and_nothing_is_written_again(
    tmp_path: Path,
    prompts: Path,  # noqa: F811
) -> None:
    there, here, out = tmp_path / "there", tmp_path / "here", tmp_path / "out"
    out.mkdir()
    run = write_text(config(prompts, there, num_tokens=40))
    archives = stage.packed(run.folder, out, stage.MOST_FILE_BYTES)
    assert [path.name for path in archives] == ["own-text-1.zip"]
    with zipfile.ZipFile(archives[0]) as archive:
        archive.extractall(here)
    found = write(config(prompts, here, num_tokens=40))
    assert found.num_new_tokens == 0 and found.num_tokens == run.num_tokens
    assert (here / COUNTS_FOLDER).is_dir() and not (there / COUNTS_FOLDER).exists()


def test_archives_hold_whole_shards_and_keep_the_limit(tmp_path: Path) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    (folder / "text").mkdir(parents=True)
    out.mkdir()
    (folder / "manifest.json").write_bytes(b"x" * 100)
    for name in SHARDS:
        (folder / name).write_bytes(b"x" * 40_000)
    (out / "own-text-3.zip").write_bytes(b"of an earlier part")
    archives = stage.packed(folder, out, 200_000)
    names = [zipfile.ZipFile(path).namelist() for path in archives]
    assert names == [["manifest.json", *SHARDS[:2]], [SHARDS[2]]]
    assert all(path.stat().st_size <= 200_000 for path in archives)
    assert sorted(out.iterdir()) == archives


def test_without_the_model_there_is_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("specbound.bench.gpu.smollm2.MODEL_FOLDER", tmp_path)
    assert list(stage.parts(Settings(tmp_path))) == []
    assert "write: left out, 0 of several parts" in capsys.readouterr().out
