"""The files that are checked."""

import subprocess
from functools import cached_property
from pathlib import Path

from .cpp import Source

CPP = (".h", ".cpp", ".cu", ".cuh")
_SKIPPED = {".git", ".venv", "__pycache__", "out"}


class Tree:
    def __init__(self, root):
        self.root = Path(root)
        self._texts = {}
        self._sources = {}

    @cached_property
    def files(self):
        """Paths relative to the root: what git tracks or would track; in a folder without git, everything."""
        if (self.root / ".git").exists():
            listed = subprocess.run(
                ["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                check=True, capture_output=True, text=True,
            ).stdout.split("\0")
        else:
            listed = [str(path.relative_to(self.root)) for path in self.root.rglob("*")]
        return sorted({path for path in listed if path and self._is_ours(path)})

    def _is_ours(self, path):
        parts = Path(path).parts
        return not _SKIPPED & set(parts) and not parts[0].startswith("build") and (self.root / path).is_file()

    def under(self, *folders, suffixes=CPP):
        """Files of these kinds in these folders; the root's own with no folder given."""
        return [
            path for path in self.files
            if path.endswith(suffixes) and (not folders or path.startswith(tuple(f + "/" for f in folders)))
        ]

    def exists(self, path):
        return (self.root / path).is_file()

    def bytes(self, path):
        return (self.root / path).read_bytes()

    def text(self, path):
        """Empty for a file that is no text."""
        if path not in self._texts:
            try:
                self._texts[path] = self.bytes(path).decode()
            except UnicodeDecodeError:
                self._texts[path] = ""
        return self._texts[path]

    def source(self, path):
        if path not in self._sources:
            self._sources[path] = Source(self.text(path))
        return self._sources[path]

    def lines(self, path):
        return len(self.text(path).splitlines())
