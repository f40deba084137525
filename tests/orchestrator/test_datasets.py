from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.datasets import LAYOUTS, check_dataset
from orchestrator.errors import DatasetError

RECORD = 3073
TRAIN, TEST = "cifar-10-batches-bin", "cifar-10-verify-bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of three training and two test pictures."""
    for name, file, records in ((TRAIN, "data_batch_1.bin", 2), (TRAIN, "data_batch_2.bin", 1), (TEST, "test.bin", 2)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(bytes(RECORD * records))
    return tmp_path


def error_of(folder: Path, layout: str = "cifar10-binary") -> str:
    with pytest.raises(DatasetError) as caught:
        check_dataset(layout, folder)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_dataset_is_fine(folder: Path) -> None:
    (folder / TRAIN / "batches.meta.txt").write_text("airplane\n", encoding="utf-8")
    check_dataset("cifar10-binary", folder)


def test_a_folder_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    assert error_of(tmp_path / "gone").startswith(f"{tmp_path / 'gone'}: no such folder")


def test_a_file_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a folder" in error_of(tmp_path / "file")


@pytest.mark.parametrize("part", [TRAIN, TEST])
def test_a_dataset_without_one_of_its_folders_says_which(folder: Path, part: str) -> None:
    (folder / part).rename(folder / "elsewhere")
    assert f"no folder {part}" in error_of(folder)


@pytest.mark.parametrize("part", [TRAIN, TEST])
def test_a_folder_without_pictures_says_what_it_lacks(folder: Path, part: str) -> None:
    for file in (folder / part).iterdir():
        file.unlink()
    told = error_of(folder)
    assert str(folder / part) in told and ".bin in it" in told


@pytest.mark.parametrize("size", [0, 1, RECORD - 1, RECORD + 1, 10 * RECORD - 1])
@pytest.mark.parametrize("file", [f"{TRAIN}/data_batch_2.bin", f"{TEST}/test.bin"])
def test_a_file_that_is_no_whole_number_of_records_is_named_with_its_size(folder: Path, file: str, size: int) -> None:
    (folder / file).write_bytes(bytes(size))
    told = error_of(folder)
    assert told.startswith(f"{folder / file}: {size:,} bytes is not a whole number of 3,073-byte records")


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / TEST / "more.bin").symlink_to(folder / "gone")
    assert "more.bin: No such file" in error_of(folder)


def test_a_folder_in_the_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / TEST / "more.bin").mkdir()
    assert "more.bin" in error_of(folder)


def test_an_unknown_layout_names_the_nearest_one(folder: Path) -> None:
    assert "did you mean 'cifar10-binary'?" in error_of(folder, "cifar10-binry")


def test_a_job_that_comes_with_ascendrun_asks_for_a_layout_that_there_is() -> None:
    from orchestrator import jobfiles

    for name in jobfiles.builtin_names():
        dataset = jobfiles.load(name).dataset
        assert dataset is None or dataset.layout in LAYOUTS
