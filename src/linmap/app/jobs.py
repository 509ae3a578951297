"""Commands that run for the app: one process each, in a folder of its own, found again after a restart."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from linmap.artifacts import write_text
from linmap.data.door import load_json
from linmap.errors import DataError, UsageError
from linmap.locks import BusyError, FolderLock
from linmap.ownership import make_folder
from linmap.processes import ENDS_WITH

State = Literal["waiting", "running", "done", "refused", "failed", "stopped", "lost"]
FILE, LOG, ANSWER, OUT, INPUT, MODEL = "job.json", "log.txt", "answer.json", "out", "input", "model"
OF_CODES: dict[int, State] = {0: "done", 2: "refused", 130: "stopped"}
PATIENCE = 15.0  # seconds that a stopped command has to keep what it has done
MOST_WAITING = 100
DONE_OF = re.compile(r"(\d+) of (\d+)")
NAME = re.compile(r"\d{8}-\d{6}-[a-z0-9_]+-[a-z]+(-\d+)?")


@dataclass(frozen=True)
class Job:
    """A command of the app, as `job.json` keeps it."""

    id: str
    verb: str
    system: str
    words: list[str]
    """What follows `linmap`."""
    resumes: bool = False
    state: State = "waiting"
    made: str = ""
    seconds: float = 0.0
    before: list[str] = field(default_factory=list)
    """Files that were there when it began: those of the fitted run that it uses."""
    folder: Path = field(default=Path(), compare=False)

    @property
    def over(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def goes_on(self) -> bool:
        """Whether it may be taken up where it ended: not one that was refused before it kept anything."""
        unfinished = self.over and self.state != "done" and self.resumes
        return unfinished and (self.state != "refused" or any(self.out.rglob("*")))

    @property
    def out(self) -> Path:
        return self.folder / OUT

    @property
    def place(self) -> Path:
        """Where it runs: `apply` writes its result where it stands, or into the fitted run."""
        return self.out if self.verb == "apply" else self.folder

    def log(self, most: int = 20_000) -> str:
        """The end of what it said."""
        with contextlib.suppress(OSError), open(self.folder / LOG, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            return file.read().decode("utf-8", "replace")
        return ""

    def progress(self) -> tuple[int, int] | None:
        """How much is done, where the log says so."""
        found = DONE_OF.findall(self.log(4000))
        return (int(found[-1][0]), int(found[-1][1])) if found and int(found[-1][1]) else None

    def answer(self) -> dict[str, Any]:
        """What the command answered; {} where it did not."""
        with contextlib.suppress(OSError, DataError):
            found = load_json(self.folder / ANSWER)
            return found if isinstance(found, dict) else {}
        return {}

    def files(self) -> list[Path]:
        """What it wrote, from its folder, the shallow ones first."""
        root, there = self.folder.resolve(), set(self.before)
        found = [path for place in (OUT, MODEL) for path in (self.folder / place).rglob("*") if path.is_file()]
        names = [path.relative_to(self.folder) for path in found if path.resolve().is_relative_to(root)]
        return sorted((name for name in names if str(name) not in there), key=lambda name: (len(name.parts), name))


class Jobs:
    """All commands of a folder of runs, whoever asked for them; a few at once, the others wait in their order.

    Parameters
    ----------
    root
        Folder of the runs.
    at_once
        How many may run at the same time.

    Raises
    ------
    UsageError
        If another app works in this folder.
    """

    def __init__(self, root: Path, at_once: int = 1) -> None:
        self.root = Path(root).absolute()
        make_folder(self.root)
        try:
            self._lock_of_root = FolderLock(self.root)
        except BusyError as busy:
            raise UsageError(f"another app works in {self.root}; end it, or give another --runs. ({busy})") from None
        self.at_once = at_once
        self._lock = threading.RLock()
        self._queue: list[str] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()
        self._jobs = {job.id: job for job in map(self._found, sorted(self.root.iterdir())) if job is not None}

    def _found(self, folder: Path) -> Job | None:
        """A job of an earlier session; one that was running is lost."""
        try:
            job = Job(**load_json(folder / FILE), folder=folder)
        except (OSError, DataError, TypeError):
            return None
        return job if job.over else self._kept(replace(job, state="lost"))

    def _kept(self, job: Job) -> Job:
        content = {name: value for name, value in asdict(job).items() if name != "folder"}
        write_text(job.folder / FILE, json.dumps(content, indent=2))
        return job

    def _set(self, id: str, **changes: Any) -> None:
        with self._lock:
            if id in self._jobs:
                self._jobs[id] = self._kept(replace(self._jobs[id], **changes))

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.id, reverse=True)

    def __getitem__(self, id: str) -> Job:
        with self._lock:
            return self._jobs[id]

    def __contains__(self, id: str) -> bool:
        return id in self._jobs

    def ahead(self, id: str) -> int:
        """How many commands run or begin before one that waits; 0 for others."""
        with self._lock:
            return len(self._processes) + self._queue.index(id) if id in self._queue else 0

    def check_room(self) -> None:
        """Refuse one more where many wait.

        Raises
        ------
        UsageError
            If as many as `MOST_WAITING` wait.
        """
        if len(self._queue) >= MOST_WAITING:
            raise UsageError(f"{len(self._queue)} commands wait already; try again when some of them are over.")

    def folder(self, verb: str, system: str) -> Path:
        """A new folder for a command, for its uploads before it starts."""
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{system}-{verb}"
        with self._lock:
            names = (stem if n == 0 else f"{stem}-{n}" for n in range(1000))
            folder = next(self.root / name for name in names if not (self.root / name).exists())
            (folder / INPUT).mkdir(parents=True)
            (folder / OUT).mkdir()
        return folder

    @staticmethod
    def take(fitted: Job, folder: Path) -> list[str]:
        """Put a fitted run into the folder of a command, by links; what is written there later is not the run's."""
        shutil.copytree(fitted.out, folder / MODEL, copy_function=os.link)
        return [str(path.relative_to(folder)) for path in (folder / MODEL).rglob("*") if path.is_file()]

    def start(
        self, folder: Path, verb: str, system: str, words: list[str], resumes: bool, before: Sequence[str] = ()
    ) -> Job:
        """Run a command in a folder of `folder()`, now or when there is room."""
        made = datetime.now().astimezone().isoformat(timespec="seconds")
        job = Job(folder.name, verb, system, words, resumes, made=made, before=[*before], folder=folder)
        with self._lock:
            self._jobs[job.id] = self._kept(job)
            self._wait(job.id)
        return job

    def resume(self, id: str) -> None:
        """Go on with a command that was stopped.

        Raises
        ------
        UsageError
            If it is not over, or keeps nothing on its way.
        """
        with self._lock:
            job = self[id]
            if not job.goes_on:
                raise UsageError(f"{id} cannot go on: it is {job.state}, or keeps nothing on its way.")
            words = job.words if "--resume" in job.words else [*job.words, "--resume"]
            self._set(id, state="waiting", words=words)
            self._wait(id)

    def _wait(self, id: str) -> None:
        self._queue.append(id)
        self._go_on()

    def _go_on(self) -> None:
        """Begin the commands that wait longest, as far as there is room."""
        while self._queue and len(self._processes) < self.at_once:
            job = self[self._queue.pop(0)]
            try:
                process = self._begun(job)
            except OSError as error:
                self._set(job.id, state="failed")
                with contextlib.suppress(OSError), open(job.folder / LOG, "a", encoding="utf-8") as log:
                    log.write(f"it could not be started: {error}\n")
            else:
                threading.Thread(target=self._follow, args=(job, process, time.monotonic()), daemon=True).start()

    def _follow(self, job: Job, process: subprocess.Popen[bytes], start: float) -> None:
        code = process.wait()
        with self._lock:
            self._processes.pop(job.id, None)
            state = "stopped" if job.id in self._stopped else OF_CODES.get(code, "failed")
            self._set(job.id, state=state, seconds=round(job.seconds + time.monotonic() - start, 1))
            self._go_on()

    def _line(self, job: Job) -> list[str]:
        return [sys.executable, "-m", "linmap", *job.words, "--json"]

    def _begun(self, job: Job) -> subprocess.Popen[bytes]:
        """The process of a job, in a session of its own, so that all it starts can be stopped with it."""
        # models come from this machine: a job asks no hub
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
        environment[ENDS_WITH] = str(os.getpid())
        with open(job.folder / LOG, "ab") as log, open(job.folder / ANSWER, "wb") as answer:
            process = subprocess.Popen(
                self._line(job), cwd=job.place, env=environment, stdin=subprocess.DEVNULL, stdout=answer, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._processes[job.id] = process
        self._stopped.discard(job.id)
        self._set(job.id, state="running")
        return process

    def stop(self, id: str) -> None:
        """As Ctrl-C would; a command that does not end in some seconds is killed with its workers."""
        with self._lock:
            process = self._processes.get(id)
            if process is None:
                if id in self._queue:
                    self._queue.remove(id)
                    self._set(id, state="stopped")
                return
            self._stopped.add(id)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)

        def insist() -> None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        threading.Thread(target=insist, daemon=True).start()

    def delete(self, id: str) -> None:
        """Forget a command that is over, with all that it wrote.

        Raises
        ------
        UsageError
            If it still runs.
        """
        with self._lock:
            job = self[id]
            if not job.over:
                raise UsageError(f"{id} still runs; stop it first.")
            del self._jobs[id]
        shutil.rmtree(job.folder)

    def close(self) -> None:
        """Stop what waits and what runs, and wait for it."""
        with self._lock:
            for id in self._queue[:]:
                self.stop(id)
        for id, process in list(self._processes.items()):
            self.stop(id)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE + 5)
        self._lock_of_root.release()
