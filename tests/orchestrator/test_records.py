from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.datasets import LAYOUTS, survey_dataset
from orchestrator.errors import DatasetError
from orchestrator.records import Survey, survey
from tests.archives import FOLDER, RECORD, make_folder, records

LAYOUT = LAYOUTS["cifar10-binary"]
TEST = "cifar-10-verify-bin"


def look(folder: Path, class_num: int = 10) -> Survey:
    return survey_dataset(LAYOUT, folder, class_num, lambda done, total: None)


def problems(found: Survey) -> "list[str]":
    return [damage.problem for damage in found.damages]


def test_every_picture_is_counted_once_in_its_class(tmp_path: Path) -> None:
    make_folder(tmp_path, records(25), records(12, salt=1))
    (tmp_path / FOLDER / "data_batch_2.bin").write_bytes(records(5, salt=2))
    found = look(tmp_path)
    assert [part.pictures for part in found.parts] == [30, 12]
    assert found.parts[0].classes == [4, 4, 4, 4, 4, 2, 2, 2, 2, 2]
    assert found.parts[1].classes == [2, 2] + [1] * 8
    assert [part.files for part in found.parts] == [2, 1]
    assert not found.damages and not found.warnings


@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.integers(1, 256))
def test_labels_are_counted_or_told_as_damage_and_none_is_lost(tmp_path_factory, labels, class_num) -> None:
    folder = tmp_path_factory.mktemp("labels")
    content = b"".join(bytes([label]) + records(1, salt=number)[1:] for number, label in enumerate(labels))
    found = look(make_folder(folder, content, records(10, salt=99)), class_num)
    wrong = [number for number, label in enumerate(labels) if label >= class_num]
    mine = [damage for damage in found.damages if FOLDER in damage.file]
    assert found.parts[0].classes == [labels.count(label) for label in range(class_num)]
    assert sum(found.parts[0].classes) + len(wrong) == found.parts[0].pictures == len(labels)
    assert [(damage.record, damage.count) for damage in mine] == ([(wrong[0], len(wrong))] if wrong else [])


def test_a_file_that_is_cut_short_is_damaged_and_its_whole_records_are_counted(tmp_path: Path) -> None:
    found = look(make_folder(tmp_path, records(12)[:-100], records(10, salt=1)))
    assert found.parts[0].pictures == 11
    assert problems(found)[0].startswith("36,776 bytes is not a whole number of 3,073-byte records")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html>", "a web page"),
        (b"\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x80\x03}q\x00", "a Python pickle"),
        (b"", "fetch it again"),
    ],
)
def test_what_is_no_data_is_told_for_what_it_is(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in problems(look(make_folder(tmp_path, content, records(10))))[0]


def test_what_cannot_be_read_is_damaged_and_the_rest_is_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, records(10), records(10, salt=1))
    (tmp_path / FOLDER / "data_batch_2.bin").mkdir()
    (tmp_path / FOLDER / "data_batch_3.bin").symlink_to("nowhere")
    os.mkfifo(tmp_path / FOLDER / "data_batch_4.bin")
    found = look(tmp_path)
    assert problems(found) == [
        "cannot be read: not a regular file",
        "cannot be read: No such file or directory",
        "cannot be read: not a regular file",
    ]
    assert found.parts[0].pictures == 10


def test_a_part_without_files_is_damaged_and_one_without_folder_is_no_dataset(tmp_path: Path) -> None:
    make_folder(tmp_path, records(10), records(10, salt=1))
    (tmp_path / FOLDER / "data_batch_1.bin").unlink()
    assert problems(look(tmp_path)) == ["no data_batch_*.bin in it"]
    (tmp_path / FOLDER).rmdir()
    with pytest.raises(DatasetError, match="no folder cifar-10-batches-bin"):
        look(tmp_path)


def test_duplicates_are_told_inside_a_part_and_between_parts(tmp_path: Path) -> None:
    train, test = records(10), records(10, salt=1)
    found = look(make_folder(tmp_path, train + train[:RECORD] * 2, test + train[RECORD : 3 * RECORD]))
    assert [part.duplicates for part in found.parts] == [2, 0]
    assert found.shared == 2
    assert not found.damages
    assert found.warnings == [
        "training: 2 pictures there already, earlier in the same part",
        "2 pictures of the test part that the training part has too",
    ]


def test_pictures_of_one_value_are_told_and_near_ones_are_not(tmp_path: Path) -> None:
    plain = bytes([3]) + b"\xff" * 3072
    near = bytes([3]) + b"\xff" * 3071 + b"\xfe"
    found = look(make_folder(tmp_path, records(10) + plain + near, records(10, salt=1)))
    assert found.parts[0].single_valued == 1
    assert found.warnings == ["training: 1 picture of a single value, all black or the like"]


def test_classes_without_pictures_and_files_that_nobody_reads_are_told(tmp_path: Path) -> None:
    make_folder(tmp_path, records(3), records(10, salt=1))
    (tmp_path / FOLDER / "test_batch.bin").write_bytes(records(1))
    (tmp_path / FOLDER / "batches.meta.txt").touch()
    found = look(tmp_path)
    assert found.warnings == [
        "training: no picture of class 3, 4, 5, 6, 7, 8, 9",
        f"{tmp_path / FOLDER}/test_batch.bin: no data of this layout; nobody reads it",
    ]


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    make_folder(tmp_path, b"", records(10))
    with open(tmp_path / FOLDER / "data_batch_1.bin", "wb") as file:
        file.truncate(20_000 * RECORD)  # 61 MB that no disk holds
    tracemalloc.start()
    found = survey(LAYOUT.format, tmp_path, 10, lambda done, total: None, most=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.parts[0].single_valued == 20_000
    assert peak < 10_000_000
    assert "among the first 5 different pictures only" in found.warnings[-1]


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    make_folder(tmp_path, b"", records(10))
    with open(tmp_path / FOLDER / "data_batch_1.bin", "wb") as file:
        file.truncate(70_000 * RECORD)
    told = []
    survey_dataset(LAYOUT, tmp_path, None, lambda *far: told.append(far))
    assert len(told) == 2
    assert all(0 < done < total == 70_010 * RECORD for done, total in told)
