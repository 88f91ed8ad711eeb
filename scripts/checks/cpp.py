"""Just enough C++ lexing to tell code, comments and literals apart."""

import re
from dataclasses import dataclass
from functools import cached_property

_TOKEN = re.compile(
    r"""
      (?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
    | (?P<raw>R"(?P<delimiter>[^\s()\\"]{0,16})\((?P<raw_value>.*?)\)(?P=delimiter)")
    | (?P<text>"(?P<value>(?:\\.|[^"\\\n])*)")
    | (?P<number>\b\d[\w.]*(?:'\w+)*)
    | (?P<character>'(?:\\.|[^'\\\n])+')
    """,
    re.VERBOSE | re.DOTALL,
)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"(?P<quoted>[^"\n]+)"|<(?P<angled>[^>\n]+)>)', re.MULTILINE)


@dataclass(frozen=True)
class Include:
    line: int
    target: str
    quoted: bool


@dataclass(frozen=True)
class Literal:
    line: int
    value: str


def _blank(text):
    return re.sub(r"[^\n]", " ", text)


class Source:
    """One file: its code with comments and literals blanked out (lines stay lines), its literals, its includes."""

    def __init__(self, text):
        self.text = text
        without_comments, code, literals = [], [], []
        position, line = 0, 1
        for token in _TOKEN.finditer(text):
            between = text[position : token.start()]
            line += between.count("\n")
            whole = token.group()
            without_comments += [between, _blank(whole) if token["comment"] else whole]
            keep = token["number"] is not None
            code += [between, whole if keep else _blank(whole)]
            if token["raw"] is not None:
                literals.append(Literal(line, token["raw_value"]))
            elif token["text"] is not None:
                literals.append(Literal(line, token["value"]))
            line += whole.count("\n")
            position = token.end()
        without_comments.append(text[position:])
        code.append(text[position:])
        self.code = "".join(code)
        self._without_comments = "".join(without_comments)
        included = {include.line for include in self.includes}
        self.literals = [literal for literal in literals if literal.line not in included]

    @cached_property
    def includes(self):
        found = []
        for match in _INCLUDE.finditer(self._without_comments):
            line = self._without_comments.count("\n", 0, match.start()) + 1
            found.append(Include(line, match["quoted"] or match["angled"], match["quoted"] is not None))
        return found

    def search(self, pattern):
        """Pairs (line, matched text) of `pattern` in the code."""
        for match in re.finditer(pattern, self.code):
            yield self.code.count("\n", 0, match.start()) + 1, match.group()
