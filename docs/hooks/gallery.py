"""The pictures of the gallery on the first page, from what `make demo` drew.

`python docs/hooks/gallery.py runs/demo [SYSTEM ...]` takes the first picture of each system's comparison, the most
telling one, and writes it small, in light and in dark, to docs/pictures/gallery, with what it shows in `pictures.json`.
It needs Playwright and Chromium; the site is built from what it wrote. A system without a picture has its matrix there.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from linmap.experiment import Result
from linmap.recipes import SYSTEMS

GALLERY = Path(__file__).parents[1] / "pictures" / "gallery"
WIDTH, HEIGHT = 640, 400
"""The largest size, in pixels."""
CHOSEN = {"acm": "patterns.svg", "tooth_arrangement": "case-one-set-up.svg"}
"""In the place of the first picture."""


def write(runs: Path, slugs: Collection[str]) -> None:
    """The pictures of these systems, those that have a result with one below `runs`; others stay as they are."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    kept = GALLERY / "pictures.json"
    said = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    GALLERY.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for slug in slugs:
            folder = runs / slug
            found = Result.load(folder).pictures if (folder / "result.json").exists() else []
            if not found:
                continue
            shown = next((one for one in found if one.file == CHOSEN.get(slug)), found[0])
            for scheme in ("light", "dark"):
                page = browser.new_page(color_scheme=scheme, device_scale_factor=2)
                page.goto((folder / shown.file).absolute().as_uri())
                drawn = page.locator("svg").first.screenshot(omit_background=True)
                page.close()
                with Image.open(io.BytesIO(drawn)) as image:
                    image.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
                    image.save(GALLERY / f"{slug}-{scheme}.webp", quality=82, method=6)
                    size = image.size
            said[slug] = {"title": shown.title, "caption": shown.caption, "size": size}
        browser.close()
    said = {slug: said[slug] for slug in SYSTEMS if slug in said}
    kept.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2:] or list(SYSTEMS))
