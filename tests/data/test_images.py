"""Image files: pixels as they were written, by whatever format, or a refusal that names the file."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from representative import slow

from snnkd_jax.cli.predict import read
from snnkd_jax.data.images import decode
from snnkd_jax.errors import InputError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 5), np.uint8)
ALPHA = RNG.integers(0, 255, (6, 5), np.uint8)
OPAQUE = np.full((6, 5), 255, np.uint8)
BITS = GREY > 127
INDEX = GREY % 4
PALETTE = np.array([[255, 0, 0], [0, 200, 0], [7, 8, 9], [250, 250, 250]], np.uint8)
ROW = np.repeat(GREY[..., None], 3, axis=-1)


def encoded(pixels: Any, format: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, format, **options)
    return io.BytesIO(file.getvalue())


EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6 alone


def palette(colours: np.ndarray = PALETTE) -> Image.Image:
    image = Image.fromarray(INDEX)
    image.putpalette(colours.tobytes())
    return image


def turned(orientation: int) -> io.BytesIO:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(COLOUR, exif=exif.tobytes())


def png16(channels: int) -> io.BytesIO:
    """A PNG file of 16 bits per channel, by its specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + bytes(range(5 * channels * 2)) for _ in range(6))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 6, 16, kind, 0, 0, 0))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def with_alpha(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, alpha])


CLEAR = np.where(INDEX == 0, 0, 255).astype(np.uint8)
KEPT = {
    "RGB": (encoded(COLOUR), 3, COLOUR),
    "RGB as BMP": (encoded(COLOUR, "BMP"), 3, COLOUR),
    "RGB as lossless WebP": (encoded(COLOUR, "WEBP", lossless=True), 3, COLOUR),
    "RGB as TIFF": (encoded(COLOUR, "TIFF", compression="tiff_lzw"), 3, COLOUR),
    "grey": (encoded(GREY), 1, GREY),
    "grey for RGB": (encoded(GREY), 3, ROW),
    "grey stored as RGB": (encoded(ROW), 1, GREY),
    "one bit": (encoded(BITS), 1, 255 * BITS),
    "one bit for RGB": (encoded(BITS), 3, 255 * np.repeat(BITS[..., None], 3, -1)),
    "palette": (encoded(palette()), 3, PALETTE[INDEX]),
    "palette, GIF": (encoded(palette(), "GIF"), 3, PALETTE[INDEX]),
    "grey palette": (encoded(palette(PALETTE[:, [1, 1, 1]])), 1, PALETTE[INDEX][..., 1]),
    "opaque RGBA": (encoded(with_alpha(COLOUR, OPAQUE)), 3, COLOUR),
    "opaque LA": (encoded(with_alpha(GREY, OPAQUE)), 1, GREY),
    "opaque LA for RGB": (encoded(with_alpha(GREY, OPAQUE)), 3, ROW),
    "opaque palette": (encoded(palette(), transparency=200), 3, PALETTE[INDEX]),
    "RGBA": (encoded(with_alpha(COLOUR, ALPHA)), 4, with_alpha(COLOUR, ALPHA)),
    "RGB for RGBA": (encoded(COLOUR), 4, with_alpha(COLOUR, OPAQUE)),
    "LA": (encoded(with_alpha(GREY, ALPHA)), 2, with_alpha(GREY, ALPHA)),
    "grey for LA": (encoded(GREY), 2, with_alpha(GREY, OPAQUE)),
    "transparent palette for RGBA": (encoded(palette(), transparency=0), 4, with_alpha(PALETTE[INDEX], CLEAR)),
    "turned by 90": (turned(6), 3, np.rot90(COLOUR, -1)),
    "turned by 180": (turned(3), 3, np.rot90(COLOUR, 2)),
    "turned TIFF": (encoded(COLOUR, "TIFF", tiffinfo={0x0112: 6}), 3, np.rot90(COLOUR, -1)),
    "turned WebP": (encoded(COLOUR, "WEBP", lossless=True, exif=EXIF), 3, np.rot90(COLOUR, -1)),
    "mirrored": (turned(2), 3, COLOUR[:, ::-1]),
    "not turned": (turned(1), 3, COLOUR),
    "no such orientation": (turned(9), 3, COLOUR),
    "MPO": (encoded(GREY, "MPO", save_all=True, append_images=[Image.fromarray(255 - GREY)], quality=100), 1, None),
}


@pytest.mark.parametrize("kind", KEPT)
def test_pixels_are_kept(kind: str) -> None:
    file, channels, expected = KEPT[kind]
    image, _ = decode("x", file, channels)
    found = np.asarray(image)
    assert found.dtype == np.uint8
    if expected is None:  # JPEG
        assert np.abs(found.astype(int) - GREY).max() < 8
    else:
        np.testing.assert_array_equal(found, expected)


REFUSED = {
    "RGBA": (encoded(with_alpha(COLOUR, ALPHA)), 3, "transparent pixels; put it on a background"),
    "RGBA for grey": (encoded(with_alpha(ROW, ALPHA)), 1, "transparent"),
    "LA": (encoded(with_alpha(GREY, ALPHA)), 1, "transparent"),
    "one pixel": (
        encoded(with_alpha(COLOUR, np.where(np.arange(30).reshape(6, 5) == 7, 254, 255).astype(np.uint8))),
        3,
        "tr",
    ),
    "transparent palette": (encoded(palette(), transparency=0), 3, "transparent"),
    "transparent GIF": (encoded(palette(), "GIF", transparency=2), 3, "transparent"),
    "transparent colour": (encoded(COLOUR, transparency=tuple(map(int, COLOUR[2, 3]))), 3, "transparent"),
    "transparent grey": (encoded(GREY, transparency=int(GREY[1, 1])), 1, "transparent"),
    "colours": (encoded(COLOUR), 1, "colours, but the network takes greyscale"),
    "coloured palette": (encoded(palette()), 1, "colours"),
    "coloured RGBA": (encoded(with_alpha(COLOUR, ALPHA)), 2, "colours"),
    "16 bits, grey": (png16(1), 1, "I;16'; save it with eight bits"),
    "16 bits, LA": (png16(2), 2, "16 bits per channel; save it with eight"),
    "16 bits, RGB": (png16(3), 3, "16 bits"),
    "16 bits, RGBA": (png16(4), 4, "16 bits"),
    "16 bits, PPM": (io.BytesIO(b"P6 5 6 65535\n" + bytes(5 * 6 * 6)), 3, "16 bits"),
    "floats": (encoded(GREY.astype(np.float32), "TIFF"), 1, "'F'; save it with eight"),
    "integers": (encoded(GREY.astype(np.int32), "TIFF"), 1, "'I'; save it with eight"),
    "CMYK": (encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), 3, "'CMYK'"),
    "LAB": (encoded(Image.new("LAB", (5, 6)), "TIFF"), 3, "'LAB'"),
    "frames": (encoded(palette(), "GIF", save_all=True, append_images=[Image.fromarray(GREY)]), 3, "2 frames"),
    "APNG": (encoded(COLOUR, save_all=True, append_images=[Image.fromarray(255 - COLOUR)]), 3, "2 frames"),
    "pages": (encoded(COLOUR, "TIFF", save_all=True, append_images=[Image.fromarray(COLOUR)]), 3, "2 frames"),
    "five channels": (encoded(COLOUR), 5, "1 to 4 channels, but the network takes 5"),
    "text": (io.BytesIO(b"<html>"), 3, "cannot be read as an image"),
    "empty": (io.BytesIO(), 3, "cannot be read as an image"),
    "cut PNG": (io.BytesIO(encoded(COLOUR).getvalue()[:-40]), 3, "cannot be read"),
    "cut JPEG": (io.BytesIO(encoded(np.tile(COLOUR, (20, 20, 1)), "JPEG").getvalue()[:-2000]), 3, "truncated"),
    "cut GIF": (io.BytesIO(encoded(palette(), "GIF").getvalue()[:-12]), 3, "cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_lost_is_refused_by_name(kind: str) -> None:
    file, channels, told = REFUSED[kind]
    with pytest.raises(InputError, match=rf"photo\.png.*{told}") as caught:
        decode("photo.png", file, channels)
    assert "\n" not in str(caught.value)


def test_predict_says_what_it_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, file, told in (
        ("grey.png", encoded(GREY), "L converted to RGB"),
        ("opaque.png", encoded(with_alpha(COLOUR, OPAQUE)), "RGBA converted to RGB"),
        ("same.png", encoded(COLOUR), ""),
    ):
        path = tmp_path / name
        path.write_bytes(file.getvalue())
        assert read(path, (6, 5, 3), resize=False).shape == (6, 5, 3)
        assert capsys.readouterr().err == (f"{path}: {told}\n" if told else "")
    path = tmp_path / "odd.png"
    path.write_bytes(turned(9).getvalue())
    read(path, (6, 5, 3), resize=False)
    assert capsys.readouterr().err == ""
    path = tmp_path / "turned.png"
    path.write_bytes(turned(6).getvalue())
    assert read(path, (5, 6, 3), resize=False).shape == (5, 6, 3)
    assert "turned by its EXIF orientation, 6" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 30))])
def test_random_files_give_the_pixels_of_another_reader_or_are_refused(seed: int) -> None:
    """Any mode in three formats, by the array that was written."""
    rng = np.random.default_rng(seed)
    for _ in range(100):
        height, width = rng.integers(1, 9, 2)
        channels = int(rng.integers(1, 5))
        values = [0, 255] if rng.random() < 0.3 else range(256)
        pixels = rng.choice(np.array(values, np.uint8), (height, width, channels))
        if channels in (2, 4) and rng.random() < 0.5:
            pixels[..., -1] = 255
        wanted = int(rng.integers(1, 5))
        format = str(rng.choice(["PNG", "TIFF", "TGA"]))
        rgb = pixels[..., [0, 0, 0]] if channels < 3 else pixels[..., :3]
        alpha = pixels[..., -1] if channels in (2, 4) else np.full((height, width), 255, np.uint8)
        lost = (wanted in (1, 3) and (alpha < 255).any()) or (wanted < 3 and (rgb != rgb[..., :1]).any())
        file = encoded(pixels if channels > 1 else pixels[..., 0], format)
        try:
            found = np.asarray(decode("x", file, wanted)[0]).reshape(height, width, wanted)
        except InputError:
            assert lost
            continue
        assert not lost
        full = np.dstack([rgb, alpha])
        np.testing.assert_array_equal(found, full[..., {1: [0], 2: [0, 3], 3: [0, 1, 2], 4: [0, 1, 2, 3]}[wanted]])
