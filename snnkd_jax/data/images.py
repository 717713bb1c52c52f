"""Decoding of image files, for data sets and for single files alike: pixels keep what they say, or are refused.

- Kept: grey, also of one bit, as three equal channels, and three equal channels as grey; palettes; the first picture of
  an MPO file, which is the photograph; turned as the EXIF orientation says; without alpha if that is 255 everywhere.
- Refused: transparent pixels without a channel for them, colours for a greyscale network, more than eight bits per
  channel, CMYK and other modes without an exact RGB, several frames, damaged files.

Colour profiles are not applied, as in training codes in general.
"""

import re
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageChops, ImageOps

from snnkd_jax.errors import InputError

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by number of channels
_EXACT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # modes that these hold without loss
_ORIENTATION = 0x0112  # the EXIF tag; 1: as stored, 2 to 8: turned or mirrored


def decode(name: str, file: str | Path | IO[bytes], channels: int) -> tuple[Image.Image, list[str]]:
    """An image of eight bits in L, LA, RGB or RGBA, and in words what was changed, without loss.

    Raises `InputError`, which calls it `name`, for an image that cannot be read, or that would lose information.
    """
    if channels not in _MODES:
        raise InputError(f"{name}: image files have 1 to 4 channels, but the network takes {channels}; give it arrays")
    image, changes, wanted = _read(name, file), [], _MODES[channels]
    if image.mode not in _EXACT:
        raise InputError(f"{name} has pixels of mode {image.mode!r}; save it with eight bits, in greyscale or RGB")
    if (orientation := _orientation(image)) in range(2, 9):
        image = ImageOps.exif_transpose(image)
        changes.append(f"turned by its EXIF orientation, {orientation}")
    if image.mode == wanted and not image.has_transparency_data:
        return image, changes
    red, green, blue, alpha = image.convert("RGBA").split()
    if channels in (1, 3) and alpha.getextrema() != (255, 255):
        raise InputError(f"{name} has transparent pixels; put it on a background and save it without transparency")
    if channels in (1, 2) and (_differ(red, green) or _differ(red, blue)):
        raise InputError(f"{name} has colours, but the network takes greyscale; convert it to greyscale")
    bands = {1: (red,), 2: (red, alpha), 3: (red, green, blue), 4: (red, green, blue, alpha)}[channels]
    changes.append(f"{image.mode} converted to {'greyscale' if channels == 1 else wanted}")
    return Image.merge(wanted, bands), changes


def _read(name: str, file: str | Path | IO[bytes]) -> Image.Image:
    """The decoded image as it is stored; raises `InputError` if it is damaged, deep or moving."""
    try:
        with Image.open(file) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            deep = any(map(_is_deep, image.tile))
            image.load()
    except Exception as error:  # Pillow's decoders raise errors of many types
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{name} cannot be read as an image ({reason})") from error
    if frames > 1:
        raise InputError(f"{name} has {frames} frames; save the one that is meant")
    if deep and image.mode in _EXACT:
        raise InputError(f"{name} has 16 bits per channel; save it with eight")
    return image


def _is_deep(tile: Any) -> bool:
    """Whether Pillow would drop bits without a word: of a raw mode such as "RGB;16B", or of a PPM file above 255."""
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    is_ppm = tile.codec_name.startswith("ppm")
    return any(re.search(";16[BLN]", str(arg)) or (is_ppm and isinstance(arg, int) and arg > 255) for arg in args)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata say nothing on the pixels
        return 1


def _differ(a: Image.Image, b: Image.Image) -> bool:
    return ImageChops.difference(a, b).getbbox() is not None
