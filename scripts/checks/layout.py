"""clang-format: one version, since versions differ in what they write."""

import difflib
import re
import shutil
import subprocess

from .cache import Cache, check_all
from .finding import Finding
from .tree import CPP

MAJOR = 14


def find_clang_format():
    """The program of the right version, or None."""
    for name in (f"clang-format-{MAJOR}", "clang-format"):
        if shutil.which(name):
            version = subprocess.run([name, "--version"], capture_output=True, text=True).stdout
            found = re.search(r"version (\d+)", version)
            if found and int(found.group(1)) == MAJOR:
                return name
    return None


def formatted_files(tree):
    return tree.under("accelerate", "tests", "examples", "benchmarks", "cmake", suffixes=CPP)


def _formatted(program, tree, path):
    return subprocess.run([program, f"--assume-filename={tree.root / path}"], input=tree.bytes(path),
                          capture_output=True, check=True).stdout


def clang_format(tree, program, cache):
    def check(path):
        want, have = _formatted(program, tree, path).decode().splitlines(), tree.text(path).splitlines()
        if want == have:
            return []
        changes = difflib.SequenceMatcher(None, have, want, autojunk=False).get_opcodes()
        tag, begin, _, other, _ = next(change for change in changes if change[0] != "equal")
        got = have[begin].strip() if begin < len(have) else "the end"
        expected = want[other].strip() if other < len(want) else "the end"
        return [Finding(path, begin + 1, "format", f"`{got}`", f"`{expected}`", "Type: scripts/format")]

    style = tree.bytes(".clang-format")
    jobs = [(Cache.key("format", MAJOR, style, path, tree.bytes(path)), lambda p=path: check(p))
            for path in formatted_files(tree)]
    yield from check_all(cache, jobs)


def write_formatted(tree, program):
    """Formats in place; the paths that changed."""
    for path in formatted_files(tree):
        want = _formatted(program, tree, path)
        if want != tree.bytes(path):
            (tree.root / path).write_bytes(want)
            yield path
