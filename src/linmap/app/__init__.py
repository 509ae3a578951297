"""`linmap app`: every system in a browser, on this machine alone.

A page a system is made from its recipe, so that a new one appears by itself. Work runs as the command that the page
shows, in a process of its own, in a folder below `--runs`. Nothing asks another host for anything.

Read in this order: `forms.py` (fields from flags), `jobs.py` (commands that run), `site.py` (the pages), `matrices.py`
and `methods.py` (what each system is, as a picture and in five sentences).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from linmap.errors import UsageError

NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "python-multipart": "python_multipart"}
HOST = "127.0.0.1"


def serve(runs: Path, models: Path | None, port: int, megabytes: int, at_once: int) -> None:
    """Serve the app on 127.0.0.1 until it is interrupted; what runs then is stopped as Ctrl-C would.

    Parameters
    ----------
    runs
        Folder for what is run here; earlier runs in it are shown.
    models
        Folder whose model folders may be named in forms; None: only models by name.
    port
        Where to listen.
    megabytes
        Largest upload.
    at_once
        Commands that run at the same time; others wait.

    Raises
    ------
    UsageError
        If the extra is not installed, or the port is taken.
    """
    lacking = [name for name, module in NEEDED.items() if importlib.util.find_spec(module) is None]
    if lacking:
        raise UsageError(f"the app needs {', '.join(lacking)}: pip install 'linmap[app]'.")
    import uvicorn

    from linmap.app.jobs import Jobs
    from linmap.app.site import site

    _check_port(port)
    jobs = Jobs(runs, at_once)
    app = site(jobs, models=models, hosts=[HOST, "localhost"], megabytes=megabytes)
    print(f"open http://{HOST}:{port} (Ctrl-C ends the app)", file=sys.stderr, flush=True)
    try:
        uvicorn.run(app, host=HOST, port=port, log_level="warning", server_header=False)
    finally:
        jobs.close()


def _check_port(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(f"--port {port} cannot be used ({error.strerror}); give another.") from None
