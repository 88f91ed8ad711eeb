"""docs/parity.md: the tests that it names are there, and its counts are those of its tables."""

import re
from collections import Counter

from .finding import Finding

_PAGE = "docs/parity.md"
_REASONS = [
    "Python object identity",
    "other hardware",
    "DeepSpeed/Megatron",
    '"The step without the host"',
    '"Checkpoints that survive anything, and that Python reads"',
    '"Trackers"',
    '"Sharded models (FSDP, meshes)"',
    '"Iterable and dispatched data"',
    '"Large models (device maps, pipelines)"',
    '"fp8"',
]
_OUTCOMES = ["all", "covered", *_REASONS, "not covered yet"]
_TEST = r"\b(?:TEST|TEST_F|TEST_P|TYPED_TEST|TYPED_TEST_P|RC_GTEST_PROP|RC_GTEST_FIXTURE_PROP)\(\s*(\w+)\s*,\s*(\w+)"


def _tests(tree):
    """Suite.Name of every test, and compile_fail/name of every source that must not compile."""
    names = {f"compile_fail/{path.split('/')[-1].removesuffix('.cpp')}" for path in tree.under("tests/compile_fail")}
    for path in tree.under("tests"):
        names.update(".".join(match.groups()) for match in re.finditer(_TEST, tree.source(path).code))
    return names


def _rows(text):
    """(line, cells) of each row of the page's tables that is neither heading nor rule."""
    lines = text.splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        heading = number < len(lines) and lines[number].startswith("|---")
        if line.startswith("|") and not line.startswith("|---") and not heading:
            rows.append((number, [cell.strip() for cell in line.strip("|").split(" | ")]))
    return rows


def _outcome(cell):
    """What the last cell of an item says, or None."""
    if cell.startswith("`"):
        return "covered"
    return next((outcome for outcome in _OUTCOMES[2:] if re.match(re.escape(outcome) + r"(?:$|[:;])", cell)), None)


def parity_page(tree):
    if not tree.exists(_PAGE):
        return
    tests = _tests(tree)
    counts, stated = Counter(), {}
    for line, cells in _rows(tree.text(_PAGE)):
        if len(cells) == 2 and cells[1].isdigit():
            stated[cells[0]] = (line, int(cells[1]))
            continue
        outcome = _outcome(cells[-1])
        counts.update(["all", outcome])
        if outcome is None or len(cells) != 2:
            yield Finding(_PAGE, line, "parity", f"`{cells[-1]}`", "a test in backticks, or one of the page's reasons",
                          "Name the test that checks it")
        for name in re.findall(r"`([^`]*)`", cells[-1]):
            if name not in tests:
                yield Finding(_PAGE, line, "parity", f"`{name}`", "a test that is in tests/", "Correct the name")
    for line, text in enumerate(tree.text(_PAGE).splitlines(), 1):
        for name in re.findall(r"`([A-Z]\w*\.[A-Z]\w*)`", "" if text.startswith("|") else text):
            if name not in tests:
                yield Finding(_PAGE, line, "parity", f"`{name}`", "a test that is in tests/", "Correct the name")
    for outcome in _OUTCOMES:
        line, count = stated.get(outcome, (1, None))
        if count != counts[outcome]:
            yield Finding(_PAGE, line, "parity", f"{count} for {outcome}", f"{counts[outcome]}, as in the tables",
                          "Correct the count")
