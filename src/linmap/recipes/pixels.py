"""Images as pages take them."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def embedded_png(image: UInt8[np.ndarray, "height width channels"]) -> str:
    """An image as the address of a PNG that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., :3] if image.shape[-1] != 1 else image[..., 0]).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
