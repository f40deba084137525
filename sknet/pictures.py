"""Picture files of any size as the net's 32x32 pixels: what cannot be read gives one clear line."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sknet.dataset import SIDE
from sknet.errors import InputError

# By name: Pillow would also hand PostScript to a program of its own finding.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MOST_PIXELS = 100_000_000  # 300 MB once unpacked; more is taken for a decompression bomb


def read_all(paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray | InputError]]:
    """Yield each picture file, those of folders too, with its pixels (3, SIDE, SIDE) uint8 or what is wrong with it."""
    for path in paths:
        try:
            files = files_of(path)
        except InputError as exc:
            yield path, exc
            continue
        for file in files:
            try:
                yield file, read(file)
            except InputError as exc:
                yield file, exc


def files_of(path: Path) -> list[Path]:
    """Return *path* itself, or the picture files of that folder by name. Raises InputError when there are none."""
    if not path.is_dir():
        return [path]
    try:
        names = sorted(os.listdir(path))
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror}") from exc
    files = [path / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not files:
        raise InputError(f"{path}: a folder without pictures ({' '.join(SUFFIXES)})")
    return files


def read(path: Path) -> np.ndarray:
    """Return a picture as the net saw its training pictures: RGB, (3, SIDE, SIDE) uint8.

    The whole picture is resized to SIDE squared, whatever its shape; the net knows no finer detail than its training
    pictures had, and a larger picture shown to it as it is would be of another kind. A picture of that size already
    stays as it is. Turned as its EXIF orientation says; what is transparent becomes white; of an animation the first
    picture counts. Raises InputError, one line.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{path}: no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise InputError(f"{path}: {width} x {height} pixels; more than {MOST_PIXELS:,} are not unpacked")
                pixels = np.asarray(
                    in_colours(ImageOps.exif_transpose(image)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
                )
    except InputError:
        raise
    except Image.DecompressionBombError as exc:
        raise InputError(f"{path}: more than {MOST_PIXELS:,} pixels are not unpacked") from exc
    except UnidentifiedImageError as exc:
        raise InputError(f"{path}: no picture that can be read ({', '.join(FORMATS)})") from exc
    except OSError as exc:
        raise InputError(f"{path}: {exc.strerror or f'cut short or damaged ({exc})'}") from exc
    except (ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as exc:
        raise InputError(f"{path}: damaged ({type(exc).__name__}: {exc})") from exc  # what Pillow's decoders raise
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def in_colours(image: Image.Image) -> Image.Image:
    """Return the picture in RGB, 8 bits a colour. Raises ValueError for pixels that have no such meaning."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.convert("RGB")
