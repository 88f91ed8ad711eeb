"""Lengths of files."""

import math
import statistics

from .finding import Finding

_LONGEST = 600
_MEDIAN = 150
_P90 = 400
_NOT_LINES = (".json", ".gz", ".safetensors", ".md", ".csv")


def file_lengths(tree):
    for path in tree.under("accelerate", "scripts", "tests", "cmake", "examples", "benchmarks", suffixes=("",)):
        lines = 0 if path.endswith(_NOT_LINES) else tree.lines(path)
        if lines > _LONGEST:
            yield Finding(path, lines, "file-length", f"{lines} lines", f"at most {_LONGEST}",
                          "Split it: one idea a file")


def shape(tree):
    """The library as a whole: many small files, and at least as much test code."""
    lengths = sorted(tree.lines(path) for path in tree.under("accelerate"))
    if not lengths:
        return
    median = statistics.median(lengths)
    p90 = lengths[math.ceil(0.9 * len(lengths)) - 1]
    if median > _MEDIAN:
        yield Finding("accelerate", 0, "shape", f"a median of {median:g} lines a file", f"at most {_MEDIAN}",
                      "Split the longer files")
    if p90 >= _P90:
        yield Finding("accelerate", 0, "shape", f"{p90} lines at the 90th percentile", f"less than {_P90}",
                      "Split the longest files")
    tests = sum(tree.lines(path) for path in tree.under("tests"))
    if tests < sum(lengths):
        yield Finding("tests", 0, "shape", f"{tests} lines of C++", f"at least the library's {sum(lengths)}",
                      "Write the tests that are missing")
