#!/usr/bin/env python3
"""Writes data/digits.csv.gz from scikit-learn's copy of the UCI handwritten digits.

    python data/make_digits.py            # writes the file next to this script
    python data/make_digits.py --check    # compares with the file that is there, row for row

Needs scikit-learn (numpy and scipy come with it). The bytes depend on nothing but the rows and the
zlib that compresses them: no time stamp, no file name, fixed level.
"""

import argparse
import gzip
import pathlib
import sys

ROWS, PIXELS, DEEPEST = 1797, 64, 16
TARGET = pathlib.Path(__file__).resolve().parent / "digits.csv.gz"


def rows() -> str:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    if pixels.shape != (ROWS, PIXELS) or pixels.min() < 0 or pixels.max() > DEEPEST:
        sys.exit(
            f"make_digits.py: scikit-learn's digits are not what this script knows: got shape {pixels.shape} with "
            f"values {pixels.min():g} to {pixels.max():g}, expected ({ROWS}, {PIXELS}) with 0 to {DEEPEST}."
        )
    return "".join(
        ",".join(str(int(value)) for value in (*image, label)) + "\n" for image, label in zip(pixels, labels)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    text = rows()
    if arguments.check:
        same = gzip.decompress(TARGET.read_bytes()).decode("ascii") == text
        print(f"{TARGET}: {'the same rows' if same else 'different rows'}")
        sys.exit(0 if same else 1)
    TARGET.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))
    print(f"{TARGET}: {ROWS} rows, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
