"""scripts/lint and scripts/format."""

import argparse
import sys
import time
from pathlib import Path

from . import compile as compilation_rules
from . import headers, layers, layout, parity, programs, sizes, words
from .cache import Cache
from .tree import Tree

TEXT_RULES = [
    layers.include_order,
    headers.header_hygiene,
    headers.pragma_once,
    headers.using_namespace,
    words.environment_reads,
    words.leaving_and_printing,
    words.swallowed_errors,
    words.hollow_tests,
    words.markers,
    words.vague_names,
    words.plugin_names,
    sizes.file_lengths,
    sizes.shape,
    programs.python_parses,
    parity.parity_page,
]


def fail(message):
    print(f"lint: {message}", file=sys.stderr)
    return 2


def format_in_place(tree):
    program = layout.find_clang_format()
    if program is None:
        return fail(f"clang-format {layout.MAJOR} was not found. As root, type: apt-get install -y clang-format-14")
    changed = list(layout.write_formatted(tree, program))
    for path in changed:
        print(path)
    print(f"format: {len(layout.formatted_files(tree))} files, {len(changed)} changed")
    return 0


def lint(tree, build):
    begin = time.monotonic()
    missing = compilation_rules.missing_compilers()
    program = layout.find_clang_format()
    if program is None:
        missing.append(f"clang-format {layout.MAJOR}")
    if missing:
        return fail(f"{', '.join(missing)} not found. As root, type: apt-get install -y g++ clang clang-format-14")
    cache = Cache(build / "lint")
    try:
        compilation = compilation_rules.Compilation.of_build(tree, build)
    except FileNotFoundError as error:
        return fail(str(error))
    findings = []
    for rule in TEXT_RULES:
        findings += rule(tree)
    findings += programs.shell_parses(tree, cache)
    findings += layout.clang_format(tree, program, cache)
    findings += compilation_rules.umbrella_size(tree, compilation, cache)
    findings += compilation_rules.headers_compile(tree, compilation, cache)
    cache.forget_unused()
    for finding in sorted(findings):
        print(finding)
    print(f"lint: {len(tree.files)} files, {len(findings)} findings; {cache.misses} checked anew, "
          f"{cache.hits} unchanged; {time.monotonic() - begin:.1f} s")
    return 1 if findings else 0


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(prog="scripts/lint", description="Checks the rules of this repository.")
    parser.add_argument("--format", action="store_true", help="write what clang-format says instead of checking")
    parser.add_argument("--build", type=Path, default=root / "build", help="a configured build folder (default: build/)")
    arguments = parser.parse_args()
    tree = Tree(root)
    return format_in_place(tree) if arguments.format else lint(tree, arguments.build)


if __name__ == "__main__":
    sys.exit(main())
