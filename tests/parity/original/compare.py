"""Compares a fresh run of the original with the committed fixtures."""

import math

# The same code on another processor adds in another order: the last bits of a float may differ. Learning
# rates, flags and counts involve no such sums and must be equal.
TOLERANCE = {"float64": 1e-11, "float32": 2e-6, "bf16": 1e-2, "fp16": 2e-3}
EXACT_KEYS = {"initial_learning_rates", "learning_rates", "factors", "rates_every_ninth_step", "configuration", "hash",
              "changes", "rates"}


def first_difference(expected, actual, precision="float64", path="", exact=False):
    """None, or one sentence naming the first place where `actual` differs from `expected`."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted(set(expected) | set(actual)):
            where = f"{path}.{key}" if path else key
            if key not in actual:
                return f"{where}: committed, but the original no longer gives it"
            if key not in expected:
                return f"{where}: given by the original, but not committed"
            found = first_difference(expected[key], actual[key], precision, where, exact or key in EXACT_KEYS)
            if found:
                return found
        return None
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{path}: committed with {len(expected)} entries, the original gives {len(actual)}"
        for index, (left, right) in enumerate(zip(expected, actual, strict=True)):
            found = first_difference(left, right, precision, f"{path}[{index}]", exact)
            if found:
                return found
        return None
    if isinstance(expected, float) and isinstance(actual, float) and not exact:
        tolerance = TOLERANCE[precision]
        if math.isclose(expected, actual, rel_tol=tolerance, abs_tol=tolerance):
            return None
        return f"{path}: committed {expected!r}, the original gives {actual!r}, tolerance {tolerance}"
    if type(expected) is not type(actual) or expected != actual:
        return f"{path}: committed {expected!r}, the original gives {actual!r}"
    return None


def precision_of(document):
    configuration = document.get("configuration", {})
    if configuration.get("mixed_precision") in ("bf16", "fp16"):
        return configuration["mixed_precision"]
    return configuration.get("dtype", "float64")
