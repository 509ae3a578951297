"""The pages: a start page, a page a system, runs and what they wrote. No page asks another host for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from linmap import recipes
from linmap.app.code import code_of, line_of, settings_of
from linmap.app.export import exported, tables_of
from linmap.app.forms import NAMES_OF_MODELS, Field, command_words, form, on_page
from linmap.app.jobs import INPUT, MODEL, OUT, Job, Jobs
from linmap.app.matrices import picture
from linmap.app.methods import METHODS
from linmap.app.summary import told
from linmap.app.views import Views, script, view_of
from linmap.errors import LinmapError, UsageError
from linmap.pictures import THEME_CSS
from linmap.recipes.recipe import Verb
from linmap.version import __version__

HERE = Path(__file__).parent
REPORT_STYLE = HERE.parent / "report" / "style.css"
FIRST = 4  # settings that stand before the folded ones
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
POLICY_OF_FILES = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; frame-ancestors 'self'"
)
"""For what commands wrote: pages may run their own scripts, apart from this site, and ask nothing of any network."""
SHOWN_AS = {
    ".html": "text/html", ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp",
    ".json": "application/json", ".txt": "text/plain", ".csv": "text/plain",
}  # fmt: skip
MANY_FILES = 20_000


def site(jobs: Jobs, models: Path | None, hosts: list[str], megabytes: int) -> Starlette:
    """The application.

    Parameters
    ----------
    jobs
        Commands of the folder of runs.
    models
        Folder of model folders that forms may name; None: none.
    hosts
        Names under which a browser may ask; a page of another site that guesses the port is refused.
    megabytes
        Largest upload.
    """
    pages = _Pages(jobs, models, megabytes)
    routes = [
        Route("/", pages.start),
        Route("/systems/{slug}", pages.system),
        Route("/systems/{slug}/view", pages.look_at_example, methods=["POST"]),
        Route("/run/{verb}/{slug}", pages.run, methods=["POST"]),
        Route("/runs", pages.runs),
        Route("/runs/{id}", pages.job),
        Route("/runs/{id}/state", pages.state),
        Route("/runs/{id}/report", pages.report),
        Route("/runs/{id}/page", pages.page),
        Route("/runs/{id}/view", pages.look, methods=["POST"]),
        Route("/runs/{id}/{act:str}", pages.act, methods=["POST"]),
        Route("/runs/{id}/files/{path:path}", pages.file),
        Route("/views/{slug}.js", pages.script),
        Route("/theme.css", pages.theme),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(_Guard)]
    return Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: pages.refused, LinmapError: pages.wrong},
    )


class _Guard:
    """Headers of every answer, and no posts from other sites."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if request.method == "POST" and origin not in (f"http://{host}", None):
            return await Response("from another site", 403)(scope, receive, send)
        if request.method == "POST" and origin is None and request.headers.get("sec-fetch-site", "none") != "none":
            return await Response("from another site", 403)(scope, receive, send)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra = {
                    b"content-security-policy": POLICY.encode(),
                    b"x-content-type-options": b"nosniff",
                    b"referrer-policy": b"same-origin",
                    b"cache-control": b"no-store",
                }
                message["headers"] += [(name, value) for name, value in extra.items() if name not in present]
            await send(message)

        await self.app(scope, receive, with_headers)


class _Pages:
    def __init__(self, jobs: Jobs, models: Path | None, megabytes: int) -> None:
        self.jobs, self.megabytes, self.views = jobs, megabytes, Views()
        folders = sorted(path for path in models.iterdir() if path.is_dir()) if models else []
        self.models = {path.name: path.absolute() for path in folders}
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self.templates.filters |= {"shell": line_of, "on_page": on_page}
        self.templates.globals |= {
            "systems": recipes.SYSTEMS,
            "methods": METHODS,
            "picture": lambda s: Markup(picture(s)),
        }

    def _page(self, name: str, status: int = 200, **content: Any) -> HTMLResponse:
        return HTMLResponse(self.templates.get_template(f"{name}.html.jinja").render(**content), status)

    # -- what is there ------------------------------------------------------------------------------------------------

    async def start(self, request: Request) -> Response:
        return self._page("start", title="linmap", jobs=self.jobs.all()[:6])

    async def system(self, request: Request) -> Response:
        system = self._known(request.path_params["slug"])
        mine = [job for job in self.jobs.all() if job.system == system.slug]
        fitted = [job for job in mine if job.verb == "fit" and job.state == "done"]
        try:
            recipe = recipes.load(system.slug)
        except UsageError as error:
            return self._page(
                "system", title=system.title, system=system, forms=[], jobs=mine, lacks=str(error), view=None
            )
        verbs = {"fit": recipe.fit, "apply": recipe.apply if recipe.fit is None else recipe.unfitted}
        forms = [_Form(verb, known, None) for verb, known in verbs.items() if known is not None]
        forms += [_Form("apply", recipe.apply, job) for job in fitted[:3] if recipe.fit is not None]
        forms.append(_Form("compare", recipe.compare, None))
        names = {
            "view": view_of(system.slug),
            "models": sorted(self.models),
            "named": NAMES_OF_MODELS,
            "megabytes": self.megabytes,
        }
        return self._page("system", title=system.title, system=system, forms=forms, jobs=mine, lacks="", **names)

    async def runs(self, request: Request) -> Response:
        pair = [self.jobs[id] for id in request.query_params.getlist("with") if id in self.jobs]
        return self._page("runs", title="Runs", jobs=self.jobs.all(), pair=pair[:2])

    async def job(self, request: Request) -> Response:
        job = self._job(request)
        files = job.files()
        shown = [path for path in files if path.suffix in (".svg", ".png", ".jpg", ".webp")][:24]
        pages = [path for path in files if path.suffix == ".html"][:4]
        view, answer = view_of(job.system, job.verb) if job.state == "done" else None, job.answer()
        return self._page(
            "job", title=f"{recipes.SYSTEMS[job.system].title}, {job.verb}", job=job, files=files[:200], shown=shown,
            pages=pages, answer=answer, code=code_of(job, settings_of(job)), n_files=len(files), view=view,
            tables=tables_of(job) if job.over else [], told=told(answer.get("summary") or {}),
            ahead=self.jobs.ahead(job.id), at_once=self.jobs.at_once,
        )  # fmt: skip

    async def state(self, request: Request) -> Response:
        job = self._job(request)
        return JSONResponse(
            {
                "state": job.state,
                "over": job.over,
                "log": job.log(),
                "progress": job.progress(),
                "seconds": job.seconds,
                "ahead": self.jobs.ahead(job.id),
            }
        )

    # -- what is done -------------------------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        system, verb = self._known(request.path_params["slug"]), request.path_params["verb"]
        recipe = recipes.load(system.slug)
        self._check_size(request)
        self.jobs.check_room()
        async with request.form(max_files=MANY_FILES, max_fields=2000, max_part_size=2**20) as sent:
            given = {name: value for name, value in sent.multi_items() if isinstance(value, str)}
            uploads = [part for part in sent.getlist("data") if isinstance(part, UploadFile) and part.filename]
            fitted = self._fitted(system.slug, given.pop("artifact", ""))
            kind = _verb(recipe, verb, fitted)
            if not sent.multi_items() and not kind.no_data:
                raise UsageError("the form arrived without its fields; send it again.")
            folder = self.jobs.folder(verb, system.slug)
            try:
                data = await _keep(uploads, folder / INPUT)
                words = [verb, f"../{MODEL}" if fitted else system.slug]
                if data is not None and not kind.no_data:
                    words.append(f"--data={'../' if verb == 'apply' else ''}{data.relative_to(folder)}")
                settings = kind.settings(data if fitted is None else fitted.out)
                words += command_words(_fields(settings), given, self.models)
                words += [] if verb == "apply" else [f"--out={OUT}"]
                before = self.jobs.take(fitted, folder) if fitted else []
            except BaseException:
                shutil.rmtree(folder)
                raise
        job = self.jobs.start(folder, verb, system.slug, words, kind.resumes, before)
        return RedirectResponse(f"/runs/{job.id}", 303)

    def _fitted(self, slug: str, id: str) -> Job | None:
        if not id:
            return None
        if id not in self.jobs or self.jobs[id].system != slug or self.jobs[id].state != "done":
            raise UsageError(f"{id} is no finished fit of {slug}.")
        return self.jobs[id]

    def _check_size(self, request: Request) -> None:
        if "content-length" not in request.headers:
            raise UsageError("a form without its length is not read.")
        length = int(request.headers["content-length"])
        if length > self.megabytes * 2**20:
            raise UsageError(
                f"an upload of {length / 2**20:.0f} MB is larger than {self.megabytes}; start the app with "
                "--megabytes, or use the command line."
            )

    async def act(self, request: Request) -> Response:
        job, act = self._job(request), request.path_params["act"]
        if act == "stop":
            self.jobs.stop(job.id)
        elif act == "resume":
            self.jobs.resume(job.id)
        elif act == "delete":
            self.jobs.delete(job.id)
            await run_in_threadpool(self.views.forget, job.id)
            return RedirectResponse("/runs", 303)
        else:
            raise HTTPException(404)
        return RedirectResponse(f"/runs/{job.id}", 303)

    # -- what is looked at --------------------------------------------------------------------------------------------

    async def look(self, request: Request) -> Response:
        """A question of the view of a run."""
        job = self._job(request)
        return await self.views.answer(request, job.system, job)

    async def look_at_example(self, request: Request) -> Response:
        return await self.views.answer(request, self._known(request.path_params["slug"]).slug, None)

    async def script(self, request: Request) -> Response:
        return script(request.path_params["slug"])

    # -- what was written ---------------------------------------------------------------------------------------------

    async def report(self, request: Request) -> Response:
        """The page of a comparison, whole in itself: shown here, and to be saved and shared."""
        from linmap.report import write_report

        job = self._job(request)
        page = job.folder / "report.html"
        write_report(job.out, page)
        name = f"{job.id}.html" if "save" in request.query_params else None
        return FileResponse(
            page, media_type="text/html", filename=name, headers={"content-security-policy": POLICY_OF_FILES}
        )

    async def page(self, request: Request) -> Response:
        """A fit or an application as one page without scripts, to be saved and shared."""
        job = self._job(request)
        if not job.over or job.verb == "compare":
            raise HTTPException(404)
        page = self._page(
            "export", job=job, system=recipes.SYSTEMS[job.system], verb=job.verb.capitalize(), version=__version__,
            style=Markup(self._style()), **exported(job),
        )  # fmt: skip
        page.headers["content-security-policy"] = POLICY_OF_FILES
        page.headers["content-disposition"] = f'attachment; filename="{job.id}.html"'
        return page

    async def file(self, request: Request) -> Response:
        job = self._job(request)
        path = (job.folder / request.path_params["path"]).resolve()
        inside = path.is_relative_to(job.folder.resolve()) and path.is_file()
        if not inside or path.relative_to(job.folder.resolve()) not in job.files():
            raise HTTPException(404)
        kind = SHOWN_AS.get(path.suffix.lower())
        name = path.name if kind is None or "save" in request.query_params else None
        headers = {"content-security-policy": POLICY_OF_FILES}
        return FileResponse(path, media_type=kind or "application/octet-stream", filename=name, headers=headers)

    async def theme(self, request: Request) -> Response:
        return Response(self._style(), media_type="text/css")

    @staticmethod
    def _style() -> str:
        return THEME_CSS + "\n" + REPORT_STYLE.read_text(encoding="utf-8")

    # -- what goes wrong ----------------------------------------------------------------------------------------------

    def _known(self, slug: str) -> recipes.System:
        if slug not in recipes.SYSTEMS:
            raise HTTPException(404)
        return recipes.SYSTEMS[slug]

    def _job(self, request: Request) -> Job:
        try:
            return self.jobs[request.path_params["id"]]
        except KeyError:
            raise HTTPException(404) from None

    async def refused(self, request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        said = "There is no such page." if code == 404 else f"This was refused ({code})."
        return self._page("wrong", code, title="linmap", said=said)

    async def wrong(self, request: Request, error: Exception) -> Response:
        return self._page("wrong", 400, title="linmap", said=str(error))


class _Form:
    """A form of a page: the verb, its fields, and the fitted run that it uses."""

    def __init__(self, verb: str, kind: Verb, artifact: Job | None) -> None:
        self.verb, self.artifact, self.takes_data = verb, artifact, not kind.no_data
        self.purpose = kind.purpose()
        fields = _fields(kind.settings(artifact.out if artifact else None))
        self.first, self.folded = fields[:FIRST], fields[FIRST:]
        self.id = f"{verb}-{artifact.id}" if artifact else verb


def _fields(settings: type) -> list[Field]:
    """Those of a system, and the seed of every verb."""
    found = form(settings)
    seed = Field("seed", "integer", 0, "Seed of all random draws.")
    return found if any(field.name == seed.name for field in found) else [*found, seed]


def _verb(recipe: recipes.Recipe, verb: str, fitted: Job | None) -> Verb:
    found = {
        "fit": recipe.fit, "compare": recipe.compare,
        "apply": recipe.apply if fitted or recipe.fit is None else recipe.unfitted,
    }.get(verb)  # fmt: skip
    if found is None:
        raise HTTPException(404)
    return found


async def _keep(uploads: Iterable[UploadFile], folder: Path) -> Path | None:
    """Write uploads below a folder; the file, or the folder of several."""
    written: list[Path] = []
    for upload in uploads:
        parts = [
            part
            for part in PurePosixPath((upload.filename or "").replace("\\", "/")).parts
            if part not in ("/", "..", ".")
        ]
        if not parts or any("\0" in part or len(part.encode()) > 200 for part in parts):
            raise UsageError(f"an upload has the name {upload.filename!r}, which no file can have.")
        path = folder.joinpath(*parts)
        if path.exists():
            raise UsageError(f"two uploads are called {'/'.join(parts)}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            while chunk := await upload.read(2**20):
                file.write(chunk)
        written.append(path)
    if len(written) < 2:
        return written[0] if written and written[0].parent == folder else _top(written, folder)
    return _top(written, folder)


def _top(written: list[Path], folder: Path) -> Path | None:
    """The folder that was dropped, or the one of all uploads."""
    tops = {path.relative_to(folder).parts[0] for path in written}
    if not tops:
        return None
    only = folder / next(iter(tops))
    return only if len(tops) == 1 and only.is_dir() else folder
