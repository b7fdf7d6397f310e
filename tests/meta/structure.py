"""Writes docs/structure.md: the tree of the package with the first line of each module's docstring.

Run it as `python tests/meta/structure.py`, or `make docs`; a test holds the page against the code.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

# Run as a script, only this folder is on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from meta.repository import PACKAGE, ROOT, Module, modules

PAGE = ROOT / "docs" / "structure.md"
_HEAD = """# Structure

The package, one line a module, taken from the docstrings: edit those and run `make docs`.
Imports go down only, in the order that `.importlinter` fixes and `make layers` checks.

```text
cli
auto
race | tasks
export
backends
models | environment
child
settings
types
errors
```

`race` and `tasks` do not know each other, and neither do `models` and `environment`. Nobody imports the file of a
backend or of an export step: each is named in a table and loaded by `backends.table.load`, so that no runtime library
is loaded before it is needed.

"""


def render() -> str:
    """The page as it should be."""
    folders: dict[Path, list[Module]] = {}
    for module in modules():
        folders.setdefault(module.path.parent, []).append(module)
    parts = [_HEAD]
    for folder, members in folders.items():
        title = "runoff" if folder == PACKAGE else f"runoff/{folder.relative_to(PACKAGE).as_posix()}"
        parts.append(f"## {title}\n\n| module | what it is |\n|---|---|\n")
        for module in members:
            parts.append(f"| `{module.path.name}` | {_first_line(module)} |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def _first_line(module: Module) -> str:
    docstring = ast.get_docstring(module.tree) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(render())
