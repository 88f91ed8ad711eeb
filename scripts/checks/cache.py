"""Remembers what passed, by the hash of everything that went in; a result never depends on it."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


class Cache:
    def __init__(self, folder):
        self.folder = Path(folder) if folder else None
        self.hits = self.misses = 0
        self._used = set()

    @staticmethod
    def key(*parts):
        digest = hashlib.sha256()
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode()
            digest.update(str(len(data)).encode() + b":" + data)
        return digest.hexdigest()

    def passed(self, key):
        self._used.add(key)
        hit = self.folder is not None and (self.folder / key).exists()
        self.hits += hit
        self.misses += not hit
        return hit

    def remember(self, key):
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / key).touch()

    def forget_unused(self):
        if self.folder is not None and self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name not in self._used:
                    entry.unlink(missing_ok=True)


def check_all(cache, jobs, workers=None):
    """Jobs are (key, check); check() gives a list of findings. Yields the findings of those that did not pass before."""
    todo = [(key, check) for key, check in jobs if not cache.passed(key)]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for (key, _), findings in zip(todo, pool.map(lambda job: job[1](), todo)):
            if not findings:
                cache.remember(key)
            yield from findings
