"""Runs after the last cell of every tutorial and example: which files of linmap were used, and their digests."""

import hashlib
import sys
from pathlib import Path

used = {module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "linmap"}
print({file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in sorted(filter(None, used))})
