"""Words that may not stand where they stand."""

import re
from pathlib import PurePath

from .finding import Finding

_ENVIRONMENT = r"\b(?:secure_getenv|getenv|setenv|putenv|unsetenv|environ)\b"
# A transport has a member of its own called abort.
_EXIT = r"(?:\bstd::|(?<!\w)::|(?<![\w.>:])(?<!void ))(?:_?exit|_Exit|quick_exit|abort|terminate)\s*\("
_OUTPUT = r"\bstd::(?:cout|cerr|clog|wcout|wcerr)\b|(?<![\w.])v?f?(?:printf|puts|putchar|putc|perror)\s*\("
# Path, and how often it may happen there. core/terminal.cpp only asks which stream it was given.
_ENVIRONMENT_PLACE = "accelerate/core/env."
# forks.cpp: a copy of the process that was made there has its streams flushed and ends.
_OUTPUT_PLACES = {"accelerate/accelerator.cpp": 1, "accelerate/core/log.cpp": 1,
                  "accelerate/core/terminal.cpp": 3, "accelerate/launch/forks.cpp": 2}
_EXIT_PLACES = {"accelerate/launch/forks.cpp": 1}
_MARKER = re.compile(r"\b(?:T[O]DO|F[I]XME|X[X]X|H[A]CK)\b")
_VAGUE = r"\b(?:class|struct|concept)\s+(?:\[\[[^\]]*\]\]\s*)?(?:\w*(?:Manager|Helper|Helpers|Utils|Util)|\w+Base)\b"

_PLUGIN_FOLDERS = [
    "accelerate/precision/precisions",
    "accelerate/strategy/strategies",
    "accelerate/strategy/ddp/hooks",
    "accelerate/comm/environments",
    "accelerate/comm/backends",
]
# Names that are words of every day too: only a literal that is nothing else, or that quotes them, means the plug-in.
_EVERYDAY = {"no", "single"}
# Literals that mean something else, and the one place where a user's choices are listed.
# The name that an options struct stands for is said in the struct.
_OTHER_MEANING = {("accelerate/core/env.cpp", "no"), ("accelerate/strategy/ddp.h", "ddp"),
                  ("accelerate/plan_foreign.cpp", "no"), ("accelerate/strategy/ddp.h", "no")}
_MAY_NAME_PLUGINS = {"accelerate/options.h"}


def environment_reads(tree):
    for path in tree.under("accelerate"):
        if path.startswith(_ENVIRONMENT_PLACE):
            continue
        for line, got in tree.source(path).search(_ENVIRONMENT):
            yield Finding(path, line, "environment", f"`{got}`", "Environment of accelerate/core/env.h",
                          "Take an Environment, so that a test can hand one in")


def leaving_and_printing(tree):
    for path in tree.under("accelerate"):
        if path.startswith("accelerate/cli/"):
            continue
        source = tree.source(path)
        for line, got in list(source.search(_EXIT))[_EXIT_PLACES.get(path, 0):]:
            yield Finding(path, line, "exit", f"`{got.rstrip('( ')}`", "an Error", "Throw; the program decides")
        for line, got in list(source.search(_OUTPUT))[_OUTPUT_PLACES.get(path, 0):]:
            yield Finding(path, line, "output", f"`{got.rstrip('( ')}`",
                          "output only in Accelerator::print_line and core/log.cpp",
                          "Log through Log, or return what happened")


def swallowed_errors(tree):
    for path in tree.under():
        for line, got in tree.source(path).search(r"\bcatch\s*\([^)]*\)\s*\{\s*\}"):
            yield Finding(path, line, "swallowed-error", f"`{' '.join(got.split())}`", "a handler that does something",
                          "Let the exception pass")


def hollow_tests(tree):
    for path in tree.under("tests"):
        pattern = r"\bDISABLED_\w+|\b(?:EXPECT|ASSERT)_TRUE\(\s*true\s*\)|\b(?:EXPECT|ASSERT)_FALSE\(\s*false\s*\)"
        for line, got in tree.source(path).search(pattern):
            yield Finding(path, line, "hollow-test", f"`{got}`", "a test that runs and can fail",
                          "Write the assertion or delete the test")


def markers(tree):
    for path in tree.files:
        if path.startswith("tests/parity/fixtures/"):
            continue
        for match in _MARKER.finditer(tree.text(path)):
            line = tree.text(path).count("\n", 0, match.start()) + 1
            yield Finding(path, line, "marker", match.group(), "finished work", "Do it, or leave it out")


def vague_names(tree):
    for path in tree.under():
        for line, got in tree.source(path).search(_VAGUE):
            yield Finding(path, line, "vague-name", f"`{got}`", "a name that says what the thing is",
                          "Rename it; no Manager, Helper, Utils, Base")
        if re.search(r"(?:^|_)(?:manager|helpers?|utils?|misc)$", PurePath(path).stem):
            yield Finding(path, 1, "vague-name", "a file of this name", "a name that says what is inside", "Rename it")


def plugin_names(tree):
    """Outside its folder nobody asks for a strategy or precision by name: the entry itself is asked."""
    names = {}
    for folder in _PLUGIN_FOLDERS:
        for path in tree.under(folder):
            if str(PurePath(path).parent) == folder:
                names.setdefault(PurePath(path).stem, set()).add(folder)
    for path in tree.under("accelerate"):
        if path in _MAY_NAME_PLUGINS:
            continue
        for literal in tree.source(path).literals:
            for name, folders in names.items():
                if any(path.startswith(folder + "/") for folder in folders) or (path, name) in _OTHER_MEANING:
                    continue
                quoted = re.search(rf"""(?:\\"|'){re.escape(name)}(?:\\"|')""", literal.value)
                word = name not in _EVERYDAY and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", literal.value)
                if literal.value == name or quoted or word:
                    yield Finding(path, literal.line, "plugin-name", f'"{name}" outside {" and ".join(sorted(folders))}',
                                  "no plug-in's name", "Ask the registered entries, or put the default into options.h")
