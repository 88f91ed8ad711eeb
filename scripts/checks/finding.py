"""What a rule reports."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    path: str
    line: int
    rule: str
    got: str
    expected: str
    remedy: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.rule}: got {self.got}, expected {self.expected}. {self.remedy}."
