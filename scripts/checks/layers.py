"""Who may include whom in accelerate/."""

from pathlib import PurePath

from .finding import Finding

# A row may include the rows above it, and itself. Entries of one row do not know each other.
_ORDER = [
    ["core"],
    ["tensor"],
    ["comm"],
    ["data", "precision", "profile", "nn"],
    ["strategy"],
    ["optim"],
    ["step"],
    ["checkpoint", "tracking"],
    ["options"],
    ["model", "unit"],
    ["prepare"],
    ["plan"],
    ["preparation"],
    ["runtime"],
    ["accelerator"],
    ["local"],
    ["accelerate"],
]


def _allowed():
    table, below = {}, set()
    for row in _ORDER:
        for name in row:
            table[name] = below | {name}
        below |= set(row)
    on_checkpoint = table["checkpoint"]
    table["models"] = on_checkpoint | {"models"}
    table["placement"] = on_checkpoint | {"placement"}
    table["testing"] = table["options"] | {"testing"}
    table["launch"] = {"core", "launch"}
    table["accelerate"] = table["accelerate"] | {"launch"}
    table["cli"] = {"core", "launch", "cli"}
    return table


ALLOWED = _allowed()

# They start in milliseconds, or stand below everything.
_WITHOUT_LIBTORCH = {"core", "launch", "cli"}


def component(path):
    """`accelerate/optim/clip.h` belongs to optim, `accelerate/model.cpp` and `accelerate/model_x.cpp` to model."""
    parts = PurePath(path).parts
    return parts[1] if len(parts) > 2 else PurePath(path).stem.split("_")[0]


def include_order(tree):
    for path in tree.under("accelerate"):
        own = component(path)
        if own not in ALLOWED:
            yield Finding(path, 1, "include-order", f"a folder or file `{own}` without a place in the include order",
                          "one of " + " ".join(ALLOWED), "Add it to scripts/checks/layers.py where it belongs")
            continue
        for include in tree.source(path).includes:
            if not include.quoted:
                if own in _WITHOUT_LIBTORCH and include.target.startswith(("torch/", "ATen/", "c10/")):
                    yield Finding(path, include.line, "include-order", f"<{include.target}> in {own}",
                                  "no header of LibTorch", "Put it into a folder above")
                continue
            if not include.target.startswith("accelerate/"):
                yield Finding(path, include.line, "include-order", f'"{include.target}"', '"accelerate/..." or <...>',
                              "Write the path from the root of the repository")
            elif not tree.exists(include.target):
                yield Finding(path, include.line, "include-order", f'"{include.target}", which does not exist',
                              "a header of this library", "Correct the path")
            elif component(include.target) not in ALLOWED[own]:
                yield Finding(path, include.line, "include-order", f"{own} including {component(include.target)}",
                              f"{own} to include only " + " ".join(sorted(ALLOWED[own])),
                              "Move what is needed down, or forward declare it")
