"""What headers may include, and which of them users see."""

import re

from .finding import Finding

# What public headers may include of LibTorch: ATen/core/Tensor.h costs 1.6 s of a compiler's time, torch/torch.h 13 s.
_LIBTORCH = {"c10/core/Device.h", "c10/core/ScalarType.h", "ATen/core/Tensor.h"}
_STANDARD = set("""
algorithm any array atomic barrier bit bitset charconv chrono codecvt compare complex concepts condition_variable
coroutine deque exception execution filesystem format forward_list fstream functional future initializer_list iomanip
ios iosfwd iostream istream iterator latch limits list locale map memory memory_resource mutex new numbers numeric
optional ostream queue random ranges ratio regex scoped_allocator semaphore set shared_mutex source_location span
sstream stack stdexcept stop_token streambuf string string_view strstream syncstream system_error thread tuple
type_traits typeindex typeinfo unordered_map unordered_set utility valarray variant vector version
cassert cctype cerrno cfenv cfloat cinttypes climits clocale cmath csetjmp csignal cstdarg cstddef cstdint cstdio
cstdlib cstring ctime cuchar cwchar cwctype
""".split())

# What derives from classes of LibTorch; not in accelerate.h.
_LIBTORCH_CLASSES = {"accelerate/unit.h", "accelerate/optim/lion.h"}

PRIVATE_LIST = "cmake/package.cmake"


def private_headers(tree):
    """The headers that are not installed: the list `private_headers` in cmake/package.cmake."""
    if not tree.exists(PRIVATE_LIST):
        return set()
    found = re.search(r"set\(private_headers\s+([^)]*)\)", tree.text(PRIVATE_LIST))
    return {"accelerate/" + name for name in found.group(1).split()} if found else set()


def public_headers(tree):
    private = private_headers(tree)
    return [path for path in tree.under("accelerate", suffixes=(".h",)) if path not in private]


def header_hygiene(tree):
    private = private_headers(tree)
    for path in sorted(private):
        if not tree.exists(path):
            yield Finding(PRIVATE_LIST, 1, "header-hygiene", f"the private header {path}, which does not exist",
                          "headers of this library", "Take it out of private_headers")
    for path in public_headers(tree):
        if path in _LIBTORCH_CLASSES or path.startswith(("accelerate/models/", "accelerate/nn/")):
            continue
        for include in tree.source(path).includes:
            if include.target in private:
                yield Finding(path, include.line, "header-hygiene", f"a public header including {include.target}",
                              "no private header", "Forward declare, or hide the machinery behind an Impl")
            elif not include.quoted and include.target not in _STANDARD | _LIBTORCH:
                yield Finding(path, include.line, "header-hygiene", f"<{include.target}> in a public header",
                              "the standard library, " + ", ".join(sorted(_LIBTORCH)),
                              "Forward declare, and include it in the source")
    for path in tree.under("examples", "benchmarks", "tests/install"):
        for include in tree.source(path).includes:
            if include.target in private and not path.startswith(("benchmarks/micro/", "benchmarks/all_reduce")):
                yield Finding(path, include.line, "header-hygiene", f'"{include.target}" in a user\'s program',
                              "installed headers", 'Include "accelerate/accelerate.h"')


def pragma_once(tree):
    for path in tree.under(suffixes=(".h", ".cuh")):
        directives = list(tree.source(path).search(r"(?m)^[ \t]*#[^\n]*"))
        if not directives or directives[0][1].split() != ["#pragma", "once"]:
            line, got = directives[0] if directives else (1, "none")
            yield Finding(path, line, "pragma-once", f"`{got.strip()}` as the first directive", "`#pragma once`",
                          "Put it there")


def using_namespace(tree):
    for path in tree.under(suffixes=(".h", ".cuh")):
        for line, got in tree.source(path).search(r"\busing\s+namespace\s+[\w:]+"):
            yield Finding(path, line, "using-namespace", f"`{got}` in a header", "qualified names",
                          "Qualify, or use single using-declarations inside a function")
