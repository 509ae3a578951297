"""What MkDocs needs beside mkdocs.yml: the executed pages before it looks for files, and the Markdown extension."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

sys.path.insert(0, str(Path(__file__).parent))
try:
    import notebooks
    from pages import Pages
except ModuleNotFoundError as error:
    raise PluginError(f"{error}: tutorials are executed and formulas drawn here; pip install '.[docs]'") from error


def on_config(config: Any) -> None:
    """Called once the configuration is read."""
    notebooks.write_pages()
    config.markdown_extensions.append(Pages())
