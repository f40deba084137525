from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sknet.classes import class_names
from sknet.metrics import Scores
from sknet.picture import draw_confusion


def scores_of(class_num: int) -> Scores:
    """Return the scores of a net that is right on all classes but the last, which it takes for the first."""
    labels = np.arange(class_num)
    logits = np.eye(class_num, dtype=np.float32)
    logits[-1] = logits[0]
    return Scores.none(class_num).and_of(logits, labels)


@pytest.mark.parametrize("class_num", [2, 10, 20, 100, 256])
def test_a_picture_is_large_enough_for_its_cells_and_not_larger_than_a_screen(class_num: int) -> None:
    png = draw_confusion(scores_of(class_num), [f"class {number}" for number in range(class_num)], "title")
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    assert 400 <= picture.width <= 2400 and 400 <= picture.height <= 2400


def test_the_colour_of_a_cell_is_its_share_of_the_true_class() -> None:
    png = draw_confusion(scores_of(2), ["cat", "dog"], "title")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    # Both pictures were taken for cats: of the plot's quarters the left two are dark blue, the right ones nearly white.
    dark = (pixels[:, :, 2] > pixels[:, :, 0] + 60) & (pixels[:, :, 0] < 30)
    rows, columns = np.nonzero(dark[:, : pixels.shape[1] * 3 // 4])
    height = rows.max() - rows.min()
    width = columns.max() - columns.min()
    assert height == pytest.approx(2 * width, rel=0.05), "one column of two cells"


@pytest.mark.parametrize("names", [["$x$ \\frac", "a" * 1000], ["猫", "\N{DOG}"]])
def test_no_name_of_a_class_stops_the_picture(names: list[str]) -> None:
    assert draw_confusion(scores_of(2), names, "$title\\").startswith(b"\x89PNG")


def test_names_of_classes_are_the_datasets_own_where_it_has_one_for_each(tmp_path) -> None:
    assert class_names(3, None) == ("0", "1", "2")
    (tmp_path / "batches.meta.txt").write_text("cat\nfire truck\r\n\n")
    assert class_names(2, str(tmp_path)) == ("cat", "fire truck")
    assert class_names(3, str(tmp_path)) == ("0", "1", "2"), "two names do not fit three classes"
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_text("dog\n\x1b[31mred\n")
    assert class_names(2, str(tmp_path)) == ("dog", "[31mred"), "the training pictures' own come first"
    (tmp_path / "cifar-10-batches-bin" / "batches.meta.txt").write_bytes(b"\xff\xfe\n")
    assert class_names(2, str(tmp_path)) == ("cat", "fire truck")
