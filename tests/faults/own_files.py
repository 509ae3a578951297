"""Files of a user's own, small ones, for every system."""

from __future__ import annotations

import inspect
import json
import subprocess
import typing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def eeg(folder: Path, rng: np.random.Generator) -> Path:
    y = np.arange(60) % 2
    X = rng.standard_normal((60, 4, 100))
    X[:, 0] = np.cumsum(X[:, 0] * (1 + y[:, None]), -1) * 0.3
    np.savez(folder / "eeg.npz", X=X, y=np.array(["left", "right"])[y], sfreq=100.0)
    return folder / "eeg.npz"


def matrices(folder: Path, rng: np.random.Generator) -> Path:
    y = np.arange(60) % 2
    A = rng.standard_normal((60, 6, 14))
    A[:, 0] *= 1 + y[:, None]
    np.savez(folder / "matrices.npz", X=A @ A.mT, y=y)
    return folder / "matrices.npz"


def sales(folder: Path, rng: np.random.Generator) -> Path:
    day = np.arange(400) * 2 * np.pi / 7
    columns = {"sales": np.sin(day) + rng.normal(0, 0.2, 400), "visits": np.cos(day) + rng.normal(0, 0.2, 400)}
    dates = pd.date_range("2024-01-01", periods=400, freq="D").strftime("%Y-%m-%d")
    pd.DataFrame({"date": dates} | columns).to_csv(folder / "sales.csv", index=False)
    return folder / "sales.csv"


def waves(folder: Path, rng: np.random.Generator) -> Path:
    y = np.arange(60) % 2
    X = rng.standard_normal((60, 80, 2)).cumsum(1)
    X[y == 1] += np.sin(np.arange(80) / 4)[:, None] * 3
    np.savez(folder / "waves.npz", X=X, y=y)
    return folder / "waves.npz"


def mails(folder: Path, rng: np.random.Generator) -> Path:
    said = {
        "refund": ["money back please", "return my payment", "refund the order", "i want a refund"],
        "delay": ["where is my parcel", "it is late", "still not arrived", "delivery is delayed"],
        "praise": ["great product", "i love it", "very good service", "wonderful quality"],
    }
    rows = [(f"{text} number {i}", label) for label, texts in said.items() for i in range(4) for text in texts]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(folder / "mails.csv", index=False)
    return folder / "mails.csv"


def book(folder: Path, rng: np.random.Generator) -> Path:
    members = [member for module in (typing, inspect, subprocess) for member in vars(module).values()]
    text = "\n\n".join(inspect.getdoc(member) or "" for member in members if callable(member))
    (folder / "book.txt").write_text(text)
    return folder / "book.txt"


def pairs(folder: Path, rng: np.random.Generator) -> Path:
    old = rng.standard_normal((200, 24))
    new = old @ rng.standard_normal((24, 24)) + 0.3 * rng.standard_normal((200, 24))
    np.savez(folder / "pairs.npz", old=old.astype(np.float32), new=new.astype(np.float32))
    return folder / "pairs.npz"


def records(folder: Path, rng: np.random.Generator) -> Path:
    def record(i: int) -> dict[str, object]:
        document = {"name": f"n{i}", "size": float(rng.normal(i % 2)), "tags": [["red", "blue"][i % 2], f"t{i % 9}"]}
        return {"id": i, "label": "xy"[i % 2], "doc": document}

    (folder / "records.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(80)))
    return folder / "records.jsonl"


def disks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image of 64 x 64 with a bright disk in noise, and the disk."""
    rows, columns = np.mgrid[:64, :64]
    (y, x), radius = rng.integers(20, 44, 2), rng.integers(6, 14)
    mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return (mask * 120 + rng.integers(0, 80, (64, 64))).astype(np.uint8), (mask * 255).astype(np.uint8)


def segmented(folder: Path, rng: np.random.Generator) -> Path:
    for kind in ("images", "masks"):
        (folder / "scans" / kind).mkdir(parents=True)
    for i in range(16):
        for kind, values in zip(("images", "masks"), disks(rng), strict=True):
            Image.fromarray(values).save(folder / "scans" / kind / f"{i:02}.png")
    return folder / "scans"


def photos(folder: Path, rng: np.random.Generator, count: int = 3) -> Path:
    (folder / "photos").mkdir()
    for i in range(count):
        small = Image.fromarray(np.stack([disks(rng)[0]] * 3, -1))
        small.resize((224, 224)).save(folder / "photos" / f"{i}.png")
    return folder / "photos"


def classes(folder: Path, rng: np.random.Generator) -> Path:
    y = np.repeat([0, 1], 40)
    X = rng.integers(0, 90, (80, 28, 28)).astype(np.uint8)
    X[y == 1, 6:20, 6:20] += 120
    np.savez(folder / "classes.npz", images=X, labels=y)
    return folder / "classes.npz"


def clouds(folder: Path, rng: np.random.Generator) -> Path:
    y = np.repeat([0, 1], 20)
    X = rng.standard_normal((40, 32, 3)) * np.where(y, 1.0, 0.2)[:, None, None] ** np.array([0, 1, 2])
    np.savez(folder / "clouds.npz", X=X, y=y)
    return folder / "clouds.npz"


OWN = {
    "bone": mails,
    "triadaptlora": mails,
    "salt": segmented,
    "flatquant": book,
    "token_transforming": photos,
    "learngene_pool": classes,
    "bt2": pairs,
    "mbat": records,
    "hippo": waves,
    "olinear": sales,
    "acm": eeg,
    "gbwbn": matrices,
    "lie_decomposition": classes,
    "tinvnn": clouds,
    "tooth_arrangement": None,
    "linearscope": photos,
    "householder_projector": partial(photos, count=16),
}
