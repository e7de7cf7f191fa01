"""Pictures on their way between files, figures and pages."""

import base64
import io

from PIL import Image


def open_picture(encoded: bytes) -> Image.Image:
    """An encoded image, in RGB."""
    return Image.open(io.BytesIO(encoded)).convert("RGB")


def data_uri(encoded: bytes, kind: str) -> str:
    """An image as the address of itself, for a page that needs no other file; `kind` as in image/jpeg."""
    return f"data:{kind};base64,{base64.b64encode(encoded).decode()}"
