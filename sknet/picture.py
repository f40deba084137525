"""A confusion matrix as a picture for a report."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from sknet.metrics import Scores

MOST_COUNTS = 20  # classes up to which each cell says its number of pictures
MOST_NAMES = 100  # classes up to which each row and column says its class
LONGEST_NAME = 18  # letters of a class's name that are shown


def draw_confusion(scores: Scores, names: Sequence[str], title: str) -> bytes:
    """Return the confusion matrix of K classes with these *names* (K,) as a PNG.

    A cell's colour is its share of the row, its number the pictures. Raises ImportError where matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display is asked for
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    class_num = len(names)
    # Inches: a cell has room for its number or its class, and a hundred rows still fit on a page.
    side = class_num * 0.5 if class_num <= MOST_COUNTS else class_num * 0.13 if class_num <= MOST_NAMES else 11.0
    side = max(4.0, side)
    figure = Figure(figsize=(side + 2.6, side + 1.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = scores.confusion.sum(axis=1, keepdims=True)  # (K, 1)
    shares = scores.confusion / rows.clip(min=1)  # (K, K)
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_title(title, parse_math=False, fontsize=11, wrap=True)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if class_num <= MOST_NAMES:
        shown = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]
        upright = class_num > MOST_COUNTS or max(map(len, shown)) > 4
        size = 9 if class_num <= MOST_COUNTS else 6
        axes.set_xticks(range(class_num), shown, rotation=90 if upright else 0, fontsize=size, parse_math=False)
        axes.set_yticks(range(class_num), shown, fontsize=size, parse_math=False)
    if class_num <= MOST_COUNTS:
        for row, column in [(row, column) for row in range(class_num) for column in range(class_num)]:
            colour = "white" if shares[row, column] > 0.55 else "black" if scores.confusion[row, column] else "silver"
            count = str(scores.confusion[row, column])
            axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=9 if len(count) < 5 else 7)
    figure.colorbar(image, ax=axes, format=PercentFormatter(1.0), label="share of the true class", fraction=0.04)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks becomes a box
        figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()
