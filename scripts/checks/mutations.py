"""Committed one-line mistakes: reading a patch, and putting it into a file."""

from dataclasses import dataclass
from pathlib import Path


class DoesNotApply(Exception):
    pass


@dataclass(frozen=True)
class Mutation:
    """tests/mutations/NN-name.patch: a line that says what is wrong with it, then a unified diff of one hunk."""

    name: str
    meaning: str
    path: str
    before: str
    after: str

    @classmethod
    def read(cls, patch):
        lines = Path(patch).read_text().splitlines()
        marks = [number for number, line in enumerate(lines) if line.startswith("@@")]
        head = [line for line in lines if line.startswith("+++ b/")]
        if len(marks) != 1 or len(head) != 1 or lines[0].startswith(("---", "+++", "@@")):
            raise DoesNotApply(f"{patch}: got {len(marks)} hunks in {len(head)} files, expected a line that says what "
                               "the mistake is, and one hunk in one file. Write it so.")
        body = lines[marks[0] + 1:]
        before = [line[1:] for line in body if not line.startswith("+")]
        after = [line[1:] for line in body if not line.startswith("-")]
        if sum(line.startswith("-") for line in body) != 1 or sum(line.startswith("+") for line in body) > 1:
            raise DoesNotApply(f"{patch}: expected one line to change or go. Make two patches of it.")
        return cls(Path(patch).stem, lines[0], head[0].removeprefix("+++ b/"),
                   "\n".join(before) + "\n", "\n".join(after) + "\n")

    def apply(self, text):
        """The file's text with the mistake in it."""
        found = text.count(self.before)
        if found != 1:
            raise DoesNotApply(f"tests/mutations/{self.name}.patch: its lines stand {found} times in {self.path}, "
                               "expected once. Write the patch again for what is there now.")
        return text.replace(self.before, self.after)


def read_all(folder, only=""):
    patches = sorted(Path(folder).glob("*.patch"))
    return [Mutation.read(patch) for patch in patches if only in patch.stem]
