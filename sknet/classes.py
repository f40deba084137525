"""The names of the classes, where a dataset has them."""

from __future__ import annotations

from pathlib import Path

from sknet.dataset import TRAIN

NAMES_FILE = "batches.meta.txt"  # one name a line, as the published archive has it
MOST_BYTES = 1 << 20  # a list of names is a page of text


def class_names(class_num: int, dataset_path: str | None) -> tuple[str, ...]:
    """Return the names of the classes by label: the dataset's own if it has one for each class, else the numbers.

    The dataset's lie beside its training pictures, or in its folder itself. What does not print is left out of a name.
    """
    for folder in (TRAIN[0], ".") if dataset_path else ():
        try:
            with open(Path(str(dataset_path)) / folder / NAMES_FILE, encoding="utf-8") as file:
                lines = file.read(MOST_BYTES).splitlines()
        except (OSError, ValueError):
            continue  # most datasets have none
        names = tuple(filter(None, ("".join(filter(str.isprintable, line)).strip() for line in lines)))
        if len(names) == class_num:
            return names
    return tuple(map(str, range(class_num)))
