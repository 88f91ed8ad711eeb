#!/usr/bin/env python3
"""Writes the parity fixtures by running the Python original, or compares them with a fresh run.

    python -m venv peer && peer/bin/pip install -r tests/parity/requirements.txt
    peer/bin/python tests/parity/generate.py            # writes tests/parity/fixtures
    peer/bin/python tests/parity/generate.py --check    # runs again, compares, names the first difference
"""

import argparse
import json
import os
import sys
import warnings
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE / "fixtures"


def pinned():
    lines = (HERE / "requirements.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def check_versions():
    """Fixtures of other versions would be other facts."""
    wrong = []
    for package, expected in pinned().items():
        try:
            found = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            found = "none"
        if found != expected:
            wrong.append(f"{package}: got {found}, expected {expected}")
    if wrong:
        requirements = HERE / "requirements.txt"
        sys.exit(
            "[parity] The Python environment is not the pinned one: " + "; ".join(wrong) + ". "
            f"Install it with `{sys.executable} -m pip install -r {requirements}`."
        )


def produce():
    """Every fixture as {relative path: dict or bytes}."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]
    sys.path.insert(0, str(HERE))
    import torch

    from original import checkpoints, configurations, cross_entropy, ema, gather, learning_rates, lion, masters, page, problem
    from original import process, profile, scaler, schedules, several, sharding, traces

    torch.set_num_threads(1)
    # An untied schedule steps during accumulation, before the first optimizer step: the case is meant.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
    versions = pinned()
    data = problem.document()
    files = {"problem.json": {"versions": versions, **data}}
    for configuration in configurations.configurations():
        files[f"traces/{configuration['name']}.json"] = {"versions": versions, **traces.trace(configuration, data)}
    for size in (2, 4):
        for name, document in several.documents(size, data).items():
            files[name] = {"versions": versions, **document}
    files["sharding.json"] = {"versions": versions, **sharding.document()}
    files["page.json"] = {"versions": versions, **page.document()}
    files["process.json"] = {"versions": versions, **process.document()}
    files["schedules.json"] = {"versions": versions, **schedules.document()}
    files["schedules_long.json"] = {"versions": versions, **schedules.long_document()}
    files["learning_rates.json"] = {"versions": versions, **learning_rates.document(1)}
    files["gather_for_metrics.json"] = {"versions": versions, **gather.document()}
    files["ema.json"] = {"versions": versions, **ema.document()}
    files["lion.json"] = {"versions": versions, **lion.document()}
    files["cross_entropy.json"] = {"versions": versions, **cross_entropy.document()}
    files["masters.json"] = {"versions": versions, **masters.document()}
    files["grad_scaler.json"] = {"versions": versions, **scaler.document()}
    files["profile.json"] = {"versions": versions, **profile.document()}
    files["state_dict.json"] = {"versions": versions, **checkpoints.keys_document()}
    blob, described = checkpoints.mlp_file(data)
    files["mlp.safetensors"] = blob
    files["mlp.json"] = {"versions": versions, **described}
    blob, described = checkpoints.every_dtype()
    files["every_dtype.safetensors"] = blob
    files["every_dtype.json"] = {"versions": versions, **described}
    return files


def dump(value, depth):
    """JSON with one line for each entry of the outer `depth` levels: small, and readable in a diff."""
    if depth == 0 or not isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    lines = [f"{json.dumps(key)}: {dump(entry, depth - 1)}" for key, entry in value.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def encoded(content):
    return content if isinstance(content, bytes) else (dump(content, 2) + "\n").encode()


def committed():
    return {str(path.relative_to(FIXTURES)) for path in FIXTURES.rglob("*") if path.is_file()}


def write(files):
    for stale in committed() - set(files):
        (FIXTURES / stale).unlink()
    for name, content in files.items():
        path = FIXTURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(content))
    total = sum(len(encoded(content)) for content in files.values())
    print(f"wrote {len(files)} fixtures, {total} bytes")


def check(files):
    from original.compare import first_difference, precision_of

    for name in sorted(committed() | set(files)):
        path = FIXTURES / name
        if name not in files:
            sys.exit(f"[parity] {name}: committed, but nothing generates it. Run generate.py.")
        if not path.is_file():
            sys.exit(f"[parity] {name}: generated, but not committed. Run generate.py.")
        if isinstance(files[name], bytes):
            if path.read_bytes() != files[name]:
                sys.exit(f"[parity] {name}: the committed bytes differ from those the original writes.")
            continue
        expected, actual = json.loads(path.read_bytes()), json.loads(encoded(files[name]))
        found = first_difference(expected, actual, precision_of(expected))
        if found:
            sys.exit(f"[parity] {name}: {found}")
    print(f"{len(files)} fixtures agree with the original")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    check_versions()
    files = produce()
    check(files) if arguments.check else write(files)


if __name__ == "__main__":
    main()
