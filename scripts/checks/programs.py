"""Scripts that at least parse."""

import re
import shutil
import subprocess

from .cache import Cache, check_all
from .finding import Finding


def python_files(tree):
    return tree.under(suffixes=(".py",))


def shell_files(tree):
    def is_shell(path):
        first = tree.text(path).split("\n", 1)[0]
        return path.endswith(".sh") or re.match(r"#!.*\b(ba|da)?sh\b", first)

    return [path for path in tree.files if is_shell(path)]


def python_parses(tree):
    for path in python_files(tree):
        try:
            compile(tree.text(path), path, "exec")
        except SyntaxError as error:
            yield Finding(path, error.lineno or 1, "python", error.msg, "Python that parses", "Correct it")


def shell_parses(tree, cache):
    shellcheck = shutil.which("shellcheck")

    def check(path):
        done = subprocess.run(["bash", "-n", str(tree.root / path)], capture_output=True, text=True)
        if done.returncode != 0:
            line = re.search(r"line (\d+)", done.stderr)
            return [Finding(path, int(line.group(1)) if line else 1, "shell", done.stderr.strip().splitlines()[0],
                            "a script that parses", "Correct it")]
        if shellcheck is None:
            return []
        done = subprocess.run([shellcheck, "--severity=warning", "--format=gcc", str(tree.root / path)],
                              capture_output=True, text=True)
        findings = []
        for line in done.stdout.splitlines():
            place, message = re.match(r".*?:(\d+):\d+: \w+: (.*)", line).groups()
            findings.append(Finding(path, int(place), "shell", message, "no warning of shellcheck", "Correct it"))
        return findings

    jobs = [(Cache.key("shell", bool(shellcheck), tree.bytes(path)), lambda p=path: check(p))
            for path in shell_files(tree)]
    yield from check_all(cache, jobs)
