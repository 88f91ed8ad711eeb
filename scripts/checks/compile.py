"""Every header compiles alone, and the umbrella stays small."""

import json
import re
import shlex
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from .cache import Cache, check_all
from .finding import Finding

COMPILERS = ("g++", "clang++")
UMBRELLA = "accelerate/accelerate.h"
UMBRELLA_LINES = 115_000
_WARNINGS = ["-Wall", "-Wextra", "-Werror"]


class Compilation:
    """How this project is compiled: definitions and LibTorch's folders, from the build's own compile_commands.json."""

    def __init__(self, tree, flags):
        self.tree = tree
        self.flags = ["-std=c++20", *flags, f"-I{tree.root}"]

    @classmethod
    def of_build(cls, tree, build):
        commands = Path(build) / "compile_commands.json"
        if not commands.is_file():
            raise FileNotFoundError(f"{commands} does not exist; it is written when the build is configured. "
                                    "Type: scripts/setup")
        # Every source of ours is compiled with the same ones.
        words = next((shlex.split(entry["command"]) for entry in json.loads(commands.read_text())
                      if "isystem" in entry["command"]), [])
        flags = [w for w in words if re.match(r"-(D|isystem.)", w)]
        flags += [f"-isystem{after}" for word, after in zip(words, words[1:]) if word == "-isystem"]
        return cls(tree, flags)

    @cached_property
    def libtorch(self):
        """The version's header, so that another LibTorch in the same place is another question."""
        for flag in self.flags:
            header = Path(flag.removeprefix("-isystem")) / "torch/headeronly/version.h"
            if flag.startswith("-isystem") and header.is_file():
                return header.read_bytes()
        return b""

    def closure(self, path, seen=None):
        """The header and all of ours that it includes."""
        seen = {} if seen is None else seen
        if path not in seen and self.tree.exists(path):
            seen[path] = self.tree.bytes(path)
            for include in self.tree.source(path).includes:
                self.closure(include.target, seen)
        return seen

    def key(self, kind, compiler, path):
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
        parts = [part for item in sorted(self.closure(path).items()) for part in item]
        return Cache.key(kind, version, *self.flags, self.libtorch, *parts)

    def run(self, compiler, arguments, text):
        return subprocess.run([compiler, *self.flags, *arguments, "-x", "c++", "-"],
                              input=text, capture_output=True, text=True, cwd=self.tree.root)


def _first_error(output):
    for line in output.splitlines():
        found = re.match(r"(?:.*?:\d+(?::\d+)?:)?\s*(?:fatal )?error: (.*)", line)
        if found:
            return found.group(1)
    return output.strip().splitlines()[0] if output.strip() else "no message"


def headers_compile(tree, compilation, cache, compilers=COMPILERS):
    """Alone, and twice: the second time stands for a second include."""
    def check(path, compiler):
        done = compilation.run(compiler, [*_WARNINGS, "-fsyntax-only"], f'#include "{path}"\n#include "{path}"\n')
        if done.returncode == 0:
            return []
        return [Finding(path, 1, "header-alone", f"`{_first_error(done.stderr)}` from {compiler}",
                        "a header that compiles without another before it", "Include or forward declare what it uses")]

    jobs = []
    for path in tree.under("accelerate", suffixes=(".h",)):
        for compiler in compilers:
            jobs.append((compilation.key("alone", compiler, path), lambda p=path, c=compiler: check(p, c)))
    yield from check_all(cache, jobs)


def umbrella_size(tree, compilation, cache, limit=UMBRELLA_LINES):
    if not tree.exists(UMBRELLA):
        return

    def check():
        done = compilation.run("g++", ["-E", "-P"], f'#include "{UMBRELLA}"\n')
        lines = done.stdout.count("\n")
        if done.returncode == 0 and lines <= limit:
            return []
        got = f"{lines:,} lines of g++ -E -P" if done.returncode == 0 else f"`{_first_error(done.stderr)}`"
        return [Finding(UMBRELLA, 1, "umbrella", got, f"at most {limit:,}",
                        "Forward declare instead of including, and keep machinery in sources")]

    yield from check_all(cache, [(compilation.key(f"umbrella {limit}", "g++", UMBRELLA), check)])


def missing_compilers():
    return [compiler for compiler in COMPILERS if shutil.which(compiler) is None]
