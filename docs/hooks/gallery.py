"""The pictures of the gallery on the first page, from what `make demo` drew.

`python docs/hooks/gallery.py runs/demo` takes the first picture of each system's comparison, the most telling one, and
writes it small, in light and in dark, to docs/pictures/gallery, with what it shows in `pictures.json`. It needs
Playwright and Chromium; the site is built from what it wrote. A system without a picture has its matrix there.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

from linmap.experiment import Result
from linmap.recipes import SYSTEMS

GALLERY = Path(__file__).parents[1] / "pictures" / "gallery"
WIDTH, HEIGHT = 640, 400
"""The largest size, in pixels."""


def write(runs: Path) -> None:
    """The pictures of all systems that have a result with one below `runs`."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    said = {}
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    GALLERY.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for slug in SYSTEMS:
            folder = runs / slug
            found = Result.load(folder).pictures if (folder / "result.json").exists() else []
            if not found:
                continue
            for scheme in ("light", "dark"):
                page = browser.new_page(color_scheme=scheme, device_scale_factor=2)
                page.goto((folder / found[0].file).absolute().as_uri())
                drawn = page.locator("svg").first.screenshot(omit_background=True)
                page.close()
                with Image.open(io.BytesIO(drawn)) as image:
                    image.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
                    image.save(GALLERY / f"{slug}-{scheme}.webp", quality=82, method=6)
                    size = image.size
            said[slug] = {"title": found[0].title, "caption": found[0].caption, "size": size}
        browser.close()
    (GALLERY / "pictures.json").write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
