"""Views made for looking: a run is opened once, and then answers what its page asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from linmap import recipes
from linmap.app.jobs import Job
from linmap.artifacts import plain
from linmap.data.door import json_value
from linmap.errors import LinmapError, UsageError
from linmap.recipes.recipe import View
from linmap.recipes.view import Seen

RECIPES = Path(recipes.__file__).parent
KEPT = 3  # opened views, the latest; they hold models
WAITING = 8  # questions at the same time; more are refused
BYTES = 64 * 1024  # of a question


def view_of(slug: str, verb: str | None = None) -> View | None:
    """What there is to look at of a system: of its example, or of the runs of a verb."""
    try:
        view = recipes.load(slug).view
    except UsageError:  # its extra is not installed
        return None
    return view if view and (view.example if verb is None else verb in view.verbs) else None


def script(slug: str) -> Response:
    """The script that draws the view of a system."""
    if slug not in recipes.SYSTEMS or not (path := RECIPES / slug / "view.js").is_file():
        raise HTTPException(404)
    return FileResponse(path, media_type="text/javascript")


class Views:
    """Opened views by run. One question is answered at a time, for some work changes what the whole process has."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._one = threading.Lock()
        self._waiting = 0

    async def answer(self, request: Request, slug: str, job: Job | None) -> Response:
        """What the page asks: the empty question is for what is shown first."""
        view = view_of(slug, None if job is None else job.verb)
        if view is None or (job is not None and job.state != "done"):
            raise HTTPException(404)
        if self._waiting >= WAITING:
            return JSONResponse({"error": "Too much was asked at once; try again in a moment."}, 503)
        self._waiting += 1
        try:
            return JSONResponse(await run_in_threadpool(self._answered, view, slug, job, await _question(request)))
        except LinmapError as error:
            return JSONResponse({"error": str(error)}, 400)
        except ModuleNotFoundError as error:
            name = str(error.name)
            how = recipes.remedy([name], recipes.SYSTEMS[slug].room)
            return JSONResponse({"error": f"This view needs {name}: {how}."}, 400)
        except FileNotFoundError:
            return JSONResponse({"error": "A file of this run is not there any more."}, 410)
        finally:
            self._waiting -= 1

    def _answered(self, view: View, slug: str, job: Job | None, asked: dict[str, Any]) -> Any:
        key = slug if job is None else job.id
        with self._one:
            if key not in self._open:
                seen = Seen() if job is None else Seen(job.verb, tuple(job.words), job.place)
                try:
                    self._open[key] = view.open(seen)
                except UsageError as error:  # of a run that this view does not show, which is no fault of the page
                    if asked:
                        raise
                    return {"nothing": str(error)}
                while len(self._open) > KEPT:
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return plain(self._open[key].answer(asked) if asked else self._open[key].start())

    def forget(self, id: str) -> None:
        """Close the view of a run that is deleted."""
        with self._one:
            self._open.pop(id, None)


async def _question(request: Request) -> dict[str, Any]:
    length = request.headers.get("content-length", "0" if "transfer-encoding" not in request.headers else "")
    if not length.isdecimal():
        raise UsageError("a question is sent with its length.")
    if int(length) > BYTES:
        raise UsageError(f"a question is at most {BYTES // 1024} KB long, and this one has {int(length) / 1024:,.0f}.")
    if int(length) == 0:
        raise UsageError("a question is a JSON object, and this one is empty; {} asks for what is shown first.")
    asked = json_value(await request.body(), "a question")
    if not isinstance(asked, dict):
        raise UsageError("a question is a JSON object, such as {}.")
    return asked
