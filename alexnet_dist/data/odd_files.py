"""From whatever bytes an image file holds to 8-bit RGB, or to the reason why not."""

import io
import re

import numpy as np
from PIL import ExifTags, Image, ImageOps

# The largest photograph of ILSVRC2012 has 61 million pixels.
MAX_PIXELS = 100_000_000
MAX_SIDE = 32_768
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit, of which it warns in lines of its own

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")


class UnusableImageError(Exception):
    """A file that holds no image that can be taken; the message is the reason for skipped.tsv, without the file's name."""


def decode(
    data: bytes, draft_size: int | None = None, formats: tuple[str, ...] | None = FORMATS
) -> tuple[Image.Image, bool]:
    """Decode one image file of any of `formats` (None: all that Pillow opens), whatever its name says.

    The image comes upright (EXIF orientation applied), in mode RGB: CMYK and YCCK by Adobe's convention, the high byte of
    16-bit grey levels, transparent parts over white. With `draft_size` a JPEG whose shorter side is at least four times
    that is decoded at 1/2, 1/4 or 1/8 of its size, still at least twice `draft_size`.

    Returns the image and whether the bytes themselves are a JPEG that every decoder shows the same way: RGB or greyscale,
    Huffman-coded, needing no turn. Raises UnusableImageError with the reason.
    """
    if not data:
        raise UnusableImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            return _decode(image, data, draft_size)
    except Image.UnidentifiedImageError:
        raise UnusableImageError(f"not an image in a known format (begins with {data[:8]!r})") from None
    except UnusableImageError:
        raise
    except MemoryError:
        raise UnusableImageError("too large for the memory") from None
    # What Pillow raises on damaged files is not a closed list: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        reason = re.sub(r"\s+", " ", re.sub(r"<[^>]*0x[0-9a-f]+>", "the file", str(error))) or type(error).__name__
        raise UnusableImageError(f"damaged: {reason}") from None


def check_header(path: str) -> None:
    """Raises UnusableImageError with the reason where a file does not begin as an image does; its pixels are not looked at."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_sides(*image.size)
    except UnusableImageError:
        raise
    except OSError as error:  # which Pillow's own is too
        raise UnusableImageError(error.strerror or "not an image in a known format") from None
    except Exception as error:  # as in `decode`
        raise UnusableImageError(f"damaged: {error}") from None


def check_sides(width: int, height: int) -> None:
    """Raises UnusableImageError where an image of so many pixels is not to be decoded."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UnusableImageError(
            f"enormous: {width} x {height} pixels, where {MAX_PIXELS} pixels and sides of {MAX_SIDE} are taken"
        )


def _decode(image: Image.Image, data: bytes, draft_size: int | None) -> tuple[Image.Image, bool]:
    check_sides(*image.size)
    if draft_size is not None and image.format == "JPEG":
        image.draft(None, (2 * draft_size, 2 * draft_size))
    image.load()
    upright = _upright(image)
    plain = image.format == "JPEG" and image.mode in ("RGB", "L") and upright is image and _huffman_coded(data)
    return _to_rgb(upright), plain


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF's orientation wants; itself where there is none or the EXIF block cannot be read, as viewers have it."""
    if image.format == "JPEG":
        image.info.pop("xmp", None)  # Pillow would look there too; DALI does not
    try:
        if image.getexif().get(ExifTags.Base.Orientation) not in range(2, 9):
            return image
    except Exception:  # damaged EXIF raises as variously as damaged images
        return image
    image.info.pop("exif", None)  # it would be written anew, which fails where another of its tags is damaged
    return ImageOps.exif_transpose(image)


def _huffman_coded(data: bytes) -> bool:
    """Whether a JPEG's frame is baseline, extended or progressive Huffman (SOF0 to SOF2); arithmetic coding is rare."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker <= 0xC2
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise UnusableImageError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise UnusableImageError("its grey levels have more than 16 bits")
        if not (image.mode == "I" and levels.max() < 256):  # 32 bits say nothing of how many are meant
            levels = levels >> 8
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def for_decoder(encoded: np.ndarray) -> np.ndarray:
    """An image file, uint8 [bytes], as DALI is to decode it: a JPEG as it is, of any other file the picture as a PPM.

    So 16 bits, palettes and transparent parts become what `decode` makes of them. Raises UnusableImageError with the reason.
    """
    if encoded[:2].tobytes() == b"\xff\xd8":
        return encoded
    image, _ = decode(encoded.tobytes())
    return np.frombuffer(b"P6 %d %d 255\n" % image.size + image.tobytes(), np.uint8)


def crop_square(image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """The centre size x size of the image scaled so that its shorter side is `size`, with antialiasing.

    The same square as torchvision's Resize(size) and CenterCrop(size), computed without the parts that are left out.
    """
    width, height = image.size
    shorter = min(width, height)
    scaled_width, scaled_height = int(size * width / shorter), int(size * height / shorter)
    left, top = round((scaled_width - size) / 2), round((scaled_height - size) / 2)
    x_scale, y_scale = width / scaled_width, height / scaled_height
    box = (left * x_scale, top * y_scale, (left + size) * x_scale, (top + size) * y_scale)
    box = (box[0], box[1], min(box[2], float(width)), min(box[3], float(height)))
    return image.resize((size, size), resample, box=box)


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    """A baseline JPEG of an RGB image; colour at half resolution (4:2:0), at full (4:4:4) where a side is 64 or less."""
    subsampling = "4:4:4" if min(image.size) <= 64 else "4:2:0"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling, exif=b"", icc_profile=None, comment=b"")
    return buffer.getvalue()
