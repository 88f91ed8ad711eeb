"""scripts/mutate: each committed mistake must make a test fail."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .mutations import DoesNotApply, read_all
from .tree import Tree

# In this order, until one fails; of those over ranks the ones whose ranks are threads.
TESTS = {
    "unit_tests": "*",
    "parity_tests": "*",
    "contract_tests": "*",
    "ranks_tests": "-*Shm*:KilledRank*:*/KilledRank*:*/MismatchedCalls*:*/RefusedArguments*",
}
# What a test may not find in its environment; cmake/tests.cmake does the same for CTest.
_UNSET = re.compile(r"ACCELERATE_|RANK$|LOCAL_RANK$|WORLD_SIZE$|LOCAL_WORLD_SIZE$|MASTER_")
# An endless loop is a failure too; the slowest of them takes a tenth of it.
_SECONDS = 300


class Broken(Exception):
    """Nothing can be learned: the copy does not build, or fails without a mistake."""


class Workshop:
    """A copy of the tree with a build of its own, kept between runs."""

    def __init__(self, root, folder):
        self.root, self.copy, self.build = root, folder / "tree", folder / "build"
        self.folder = folder

    def refresh(self):
        """Files that did not change keep their time, so that they are not built again."""
        tree = Tree(self.root)
        wanted = set(tree.files)
        for path in tree.files:
            target = self.copy / path
            if not target.is_file() or target.read_bytes() != tree.bytes(path):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.root / path, target)
                shutil.copymode(self.root / path, target)
        for target in [path for path in self.copy.rglob("*") if path.is_file()]:
            if str(target.relative_to(self.copy)) not in wanted:
                target.unlink()

    def configure(self, build):
        cache = (build / "CMakeCache.txt").read_text()
        known = dict(re.findall(r"^(Torch_DIR|CMAKE_CXX_COMPILER):[A-Z]+=(.+)$", cache, re.MULTILINE))
        known |= {"CMAKE_BUILD_TYPE": "Release", "CMAKE_CXX_FLAGS_RELEASE": "-O1",
                  "ACCELERATE_EXAMPLES": "OFF", "ACCELERATE_BENCHMARKS": "OFF", "ACCELERATE_INSTALL": "OFF"}
        command = ["cmake", "-S", str(self.copy), "-B", str(self.build), "-G", "Ninja"]
        self._run([*command, *(f"-D{name}={value}" for name, value in sorted(known.items()))], "configuring")

    def make(self, target):
        self._run(["cmake", "--build", str(self.build), "--target", target], f"building {target}")

    def _run(self, command, what):
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CCACHE_NOHASHDIR": "1"})
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise Broken(f"{what} failed:\n{tail}")

    def first_failure(self, target):
        """The test of `target` that fails first, or None."""
        environment = {name: value for name, value in os.environ.items() if not _UNSET.match(name)}
        environment["OMP_NUM_THREADS"] = "1"
        try:
            done = subprocess.run([str(self.build / "tests" / target), "--gtest_fail_fast", "--gtest_brief=0",
                                   f"--gtest_filter={TESTS[target]}"],
                                  capture_output=True, text=True, errors="replace", timeout=_SECONDS, env=environment,
                                  cwd=self.build / "tests")
        except subprocess.TimeoutExpired as error:
            started = re.findall(r"\[ RUN      \] (\S+)", (error.stdout or b"").decode(errors="replace"))
            return f"{started[-1] if started else target} (endless)"
        if done.returncode == 0:
            return None
        failed = re.search(r"\[  FAILED  \] (\w\S*?),? ", done.stdout + " ")
        if failed:
            return failed.group(1)
        started = re.findall(r"\[ RUN      \] (\S+)", done.stdout)
        return f"{started[-1] if started else target} (crash)"

    def suite_failure(self):
        for target in TESTS:
            self.make(target)
            failure = self.first_failure(target)
            if failure:
                return failure
        return None

    def killer(self, mutation):
        file = self.copy / mutation.path
        good = file.read_text()
        file.write_text(mutation.apply(good))
        try:
            return self.suite_failure()
        finally:
            file.write_text(good)


def run(workshop, mutations, build):
    begin = time.monotonic()
    workshop.refresh()
    for mutation in mutations:
        mutation.apply((workshop.copy / mutation.path).read_text())
    workshop.configure(build)
    failure = workshop.suite_failure()
    if failure:
        raise Broken(f"{failure} fails without a mistake. Type: scripts/test")
    print(f"mutate: {', '.join(TESTS)} pass without a mistake ({time.monotonic() - begin:.0f} s)", flush=True)
    survivors, width = [], max(len(mutation.name) for mutation in mutations)
    for mutation in mutations:
        started = time.monotonic()
        killer = workshop.killer(mutation)
        if killer is None:
            survivors.append(mutation)
        print(f"{mutation.name:{width}}  {killer or 'SURVIVED: ' + mutation.meaning}  "
              f"({time.monotonic() - started:.0f} s)", flush=True)
    print(f"mutate: {len(mutations)} mistakes, {len(mutations) - len(survivors)} found by a test, "
          f"{len(survivors)} survived; {time.monotonic() - begin:.0f} s")
    return 1 if survivors else 0


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="scripts/mutate", description="Each committed mistake must make a test fail.")
    parser.add_argument("--list", action="store_true", help="print the mistakes and whether each still applies")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with TEXT in the name")
    parser.add_argument("--folder", type=Path, default=root / "build/mutate", help="where the copy is built")
    parser.add_argument("--build", type=Path, default=root / "build", help="a configured build folder (default: build/)")
    arguments = parser.parse_args()
    try:
        mutations = read_all(root / "tests/mutations", arguments.only)
        if not mutations:
            raise DoesNotApply(f"no patch in tests/mutations has '{arguments.only}' in its name. Type: scripts/mutate --list")
        if arguments.list:
            for mutation in mutations:
                mutation.apply((root / mutation.path).read_text())
                print(f"{mutation.name:28} {mutation.path:34} {mutation.meaning}")
            return 0
        return run(Workshop(root, arguments.folder), mutations, arguments.build)
    except (DoesNotApply, Broken) as error:
        print(f"mutate: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
