"""Each rule of scripts/lint fires on what it is there for, at the right line, and leaves its neighbour alone."""

import tempfile
import unittest
from pathlib import Path

from checks import __main__ as program
from checks import compile as compilation
from checks import headers, layers, layout, mutations, parity, programs, sizes, words
from checks.cache import Cache
from checks.cpp import Source
from checks.tree import Tree

ONCE = "#pragma once\n"


class RuleTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)

    def tree(self, files):
        for path, text in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        return Tree(self.root)

    def places(self, rule, files):
        """(path, line, rule) of every finding in a tree of these files."""
        return [(f.path, f.line, f.rule) for f in rule(self.tree(files))]


class Lexing(unittest.TestCase):
    def test_comments_and_literals_are_no_code(self):
        source = Source('int a = 1;  // getenv\n/* exit(\n1) */ f("printf(\\"x\\")");\nauto r = R"(abort())";\n')
        self.assertEqual([], list(source.search("getenv|exit|printf|abort")))
        self.assertEqual([(3, "f")], list(source.search(r"\bf\b")))

    def test_literals_have_lines_and_separators_are_no_characters(self):
        source = Source("int n = 1'000'000;\nf(\"one\", 'x', R\"d(two\n)\")d\");\ng(\"three\");\n")
        self.assertEqual([(2, "one"), (2, 'two\n)"'), (4, "three")], [(l.line, l.value) for l in source.literals])

    def test_includes_in_comments_are_none(self):
        source = Source('// #include <a>\n#include <b>\n  #  include "c/d.h"  // #include <e>\n')
        self.assertEqual([(2, "b", False), (3, "c/d.h", True)], [(i.line, i.target, i.quoted) for i in source.includes])
        self.assertEqual([], source.literals)


class IncludeOrder(RuleTest):
    def test_upwards_sideways_and_foreign_paths(self):
        files = {
            "accelerate/core/a.h": '#include "accelerate/tensor/b.h"\n#include <ATen/core/Tensor.h>\n',
            "accelerate/tensor/b.h": '#include "accelerate/core/a.h"\n#include "core/a.h"\n#include "accelerate/core/z.h"\n',
            "accelerate/data/c.h": '#include "accelerate/precision/d.h"\n',
            "accelerate/precision/d.h": '#include "accelerate/comm/group.h"\n#include "accelerate/precision/d.h"\n',
            "accelerate/comm/group.h": "",
            "accelerate/misplaced/e.h": "",
        }
        rule = "include-order"
        self.assertEqual(
            [("accelerate/core/a.h", 1, rule), ("accelerate/core/a.h", 2, rule), ("accelerate/data/c.h", 1, rule), ("accelerate/misplaced/e.h", 1, rule),
             ("accelerate/tensor/b.h", 2, rule), ("accelerate/tensor/b.h", 3, rule)],
            self.places(layers.include_order, files))

    def test_branches(self):
        self.assertIn("checkpoint", layers.ALLOWED["models"])
        for lower, higher in [("models", "options"), ("testing", "model"), ("cli", "tensor"), ("launch", "cli"),
                              ("model", "unit"), ("runtime", "accelerator")]:
            self.assertNotIn(higher, layers.ALLOWED[lower])


class Headers(RuleTest):
    LIST = {"cmake/package.cmake": "set(private_headers plan.h)\n", "accelerate/plan.h": "#include <fcntl.h>\n"}

    def test_public_headers_stay_light(self):
        files = self.LIST | {"accelerate/model.h": "#include <vector>\n#include <ATen/core/Tensor.h>\n#include <torch/torch.h>\n"}
        self.assertEqual([("accelerate/model.h", 3, "header-hygiene")], self.places(headers.header_hygiene, files))

    def test_private_headers_stay_private(self):
        include = '#include "accelerate/plan.h"\n'
        files = self.LIST | {"accelerate/model.h": include, "accelerate/model.cpp": include, "examples/a.cpp": include}
        self.assertEqual([("accelerate/model.h", 1, "header-hygiene"), ("examples/a.cpp", 1, "header-hygiene")],
                         self.places(headers.header_hygiene, files))

    def test_a_private_header_that_is_gone(self):
        files = {"cmake/package.cmake": "set(private_headers gone.h)\n", "accelerate/model.h": ""}
        self.assertEqual([("cmake/package.cmake", 1, "header-hygiene")], self.places(headers.header_hygiene, files))

    def test_pragma_once_comes_first(self):
        files = {"accelerate/a.h": "// why\n" + ONCE, "accelerate/b.h": "#include <vector>\n" + ONCE, "tests/c.h": ""}
        self.assertEqual([("accelerate/b.h", 1, "pragma-once"), ("tests/c.h", 1, "pragma-once")],
                         self.places(headers.pragma_once, files))

    def test_using_namespace_only_in_sources(self):
        text = "\nusing namespace std;\n"
        self.assertEqual([("accelerate/a.h", 2, "using-namespace")],
                         self.places(headers.using_namespace, {"accelerate/a.h": text, "accelerate/a.cpp": text}))


class Words(RuleTest):
    def test_environment(self):
        text = 'auto a = std::getenv("A");\nEnvironment environment;\nextern char** environ;\n'
        self.assertEqual([("accelerate/a.cpp", 1, "environment"), ("accelerate/a.cpp", 3, "environment")],
                         self.places(words.environment_reads, {"accelerate/a.cpp": text, "accelerate/core/env.cpp": text}))

    def test_exit_and_output(self):
        text = "std::exit(1);\n::abort();\nthing.exit();\nstd::cout << 1;\nstd::snprintf(b, 1, f);\nputs(f);\nstd::fprintf(stderr, f);\n"
        rules = [(line, rule) for _, line, rule in
                 self.places(words.leaving_and_printing, {"accelerate/a.cpp": text, "examples/b.cpp": text})]
        self.assertEqual([(1, "exit"), (2, "exit"), (4, "output"), (6, "output"), (7, "output")], rules)

    def test_print_has_one_place(self):
        files = {"accelerate/accelerator.cpp": "std::cout << 1;\nstd::cout << 2;\n"}
        self.assertEqual([("accelerate/accelerator.cpp", 2, "output")], self.places(words.leaving_and_printing, files))

    def test_a_forked_copy_ends_in_one_place(self):
        files = {"accelerate/launch/forks.cpp": "::_exit(0);\n::_exit(1);\n", "accelerate/launch/other.cpp": "::_exit(0);\n"}
        self.assertEqual([("accelerate/launch/forks.cpp", 2, "exit"), ("accelerate/launch/other.cpp", 1, "exit")],
                         sorted(self.places(words.leaving_and_printing, files)))

    def test_swallowed_errors(self):
        text = "try { f(); } catch (...) {\n}\ntry { f(); } catch (const E& e) { g(e); }\n"
        self.assertEqual([("tests/a.cpp", 1, "swallowed-error")], self.places(words.swallowed_errors, {"tests/a.cpp": text}))

    def test_hollow_tests(self):
        text = "TEST(A, DISABLED_b) {}\nEXPECT_TRUE(true);\nEXPECT_TRUE(truth);\n"
        self.assertEqual([("tests/a.cpp", 1, "hollow-test"), ("tests/a.cpp", 2, "hollow-test")],
                         self.places(words.hollow_tests, {"tests/a.cpp": text, "examples/a.cpp": text}))

    def test_markers_in_any_file(self):
        files = {"a.md": "fine\nTO" + "DO\n", "scripts/b": "# FIX" + "ME\n", "c.cpp": "int XX" + "X;\n// autodo\n"}
        self.assertEqual([("a.md", 2, "marker"), ("c.cpp", 1, "marker"), ("scripts/b", 1, "marker")],
                         self.places(words.markers, files))

    def test_vague_names(self):
        files = {"accelerate/a.h": "class ThingManager;\nstruct Managers {};\nstruct LoopHelper {};\n// class XUtils\n",
                 "accelerate/string_utils.h": ""}
        self.assertEqual([("accelerate/a.h", 1, "vague-name"), ("accelerate/a.h", 3, "vague-name"),
                          ("accelerate/string_utils.h", 1, "vague-name")], self.places(words.vague_names, files))

    def test_plugin_names_stay_in_their_folder(self):
        folder = "accelerate/precision/precisions/"
        files = {
            folder + "no.cpp": 'f("no");\n', folder + "bf16.cpp": 'f("bf16");\n',
            "accelerate/a.cpp": 'f("no");\nf("no model");\nf("use bf16");\nf("xbf16");  // "bf16"\nf("or \\"no\\"");\n',
            "accelerate/options.h": 'f("no");\n', "accelerate/core/env.cpp": 'f("no");\n', "tests/a.cpp": 'f("bf16");\n',
        }
        self.assertEqual([("accelerate/a.cpp", line, "plugin-name") for line in (1, 3, 5)],
                         self.places(words.plugin_names, files))


class Sizes(RuleTest):
    def test_long_files(self):
        files = {"accelerate/a.cpp": "\n" * 601, "scripts/b": "\n" * 600, "tests/c.json": "\n" * 700}
        self.assertEqual([("accelerate/a.cpp", 601, "file-length")], self.places(sizes.file_lengths, files))

    def test_shape_of_the_library(self):
        files = {f"accelerate/{i}.cpp": "\n" * 151 for i in range(8)} | {"tests/a.cpp": "\n" * 5000}
        self.assertEqual(["accelerate"], [path for path, _, _ in self.places(sizes.shape, files)])
        self.tree({f"accelerate/{i}.cpp": "\n" for i in range(8)} | {"accelerate/8.cpp": "\n" * 400, "tests/a.cpp": ""})
        self.assertEqual(["accelerate", "tests"], [f.path for f in sizes.shape(Tree(self.root))])

    def test_a_good_shape(self):
        self.assertEqual([], self.places(sizes.shape, {"accelerate/a.cpp": "\n" * 150, "tests/a.cpp": "\n" * 150}))


class Programs(RuleTest):
    def test_scripts_parse(self):
        shebang = "#!/usr/bin/env bash\n"
        files = {"a.py": "def f(:\n", "b.py": "x = 1\n", "scripts/c": shebang + "if true; then\n", "scripts/d": shebang + "true\n"}
        tree = self.tree(files)
        self.assertEqual([("a.py", 1, "python")], [(f.path, f.line, f.rule) for f in programs.python_parses(tree)])
        self.assertEqual([("scripts/c", "shell")],
                         [(f.path, f.rule) for f in programs.shell_parses(tree, Cache(None))])


class Parity(RuleTest):
    TESTS = {"tests/unit/a.cpp": "TEST(A, One) {}\n// TEST(A, Comment)\nTEST_P(B,\n       Two) {}\nRC_GTEST_PROP(C, Three, ()) {}\n",
             "tests/compile_fail/four.cpp": ""}

    def page(self, rows, **counts):
        """The page's counts, 0 for those that are not given, from line 3; then from line 19 on its items."""
        counts = {name.replace("_", " "): count for name, count in counts.items()}
        stated = "".join(f"| {outcome} | {counts.get(outcome, 0)} |\n" for outcome in parity._OUTCOMES)
        items = "".join(f"| a case | {cell} |\n" for cell in rows)
        text = "| outcome | items |\n|---|---|\n" + stated + "\n| checks | covered by |\n|---|---|\n" + items
        return self.places(parity.parity_page, self.TESTS | {"docs/parity.md": text})

    def test_names_and_counts_that_are_right(self):
        rows = ["`A.One`, `B.Two` (differs)", "`C.Three`", "`compile_fail/four`", "other hardware", '"fp8": later; `A.One`',
                "not covered yet"]
        self.assertEqual([("docs/parity.md", 14, "parity")], self.page(rows, all=6, covered=3, other_hardware=1, not_covered_yet=1))
        self.assertEqual([], self.page(rows[:4] + rows[5:], all=5, covered=3, other_hardware=1, not_covered_yet=1))

    def test_names_that_are_not_there(self):
        rows = ["`A.One`, `A.Two`", "`A.Comment`", "other hardware: `compile_fail/five`"]
        self.assertEqual([("docs/parity.md", line, "parity") for line in (19, 20, 21)],
                         self.page(rows, all=3, covered=2, other_hardware=1))

    def test_names_outside_the_tables(self):
        files = self.TESTS | {"docs/parity.md": "So far `A.One`, `A.Two` and `Ddp{.a = 1}`.\n"}
        self.assertIn(("docs/parity.md", 1, "`A.Two`"), [(f.path, f.line, f.got) for f in parity.parity_page(self.tree(files))])
        self.assertNotIn("`A.One`", [f.got for f in parity.parity_page(Tree(self.root))])

    def test_reasons_that_are_none(self):
        self.assertEqual([("docs/parity.md", 19, "parity")], self.page(["no time", "`A.One`"], all=2, covered=1))

    def test_counts_that_are_wrong_or_missing(self):
        self.assertEqual([("docs/parity.md", line, "parity") for line in (3, 4)], self.page(["`A.One`"], all=2))
        text = "| checks | covered by |\n|---|---|\n| a case | `A.One` |\n"
        found = list(parity.parity_page(self.tree(self.TESTS | {"docs/parity.md": text})))
        self.assertEqual(len(parity._OUTCOMES), len(found))


class Compiled(RuleTest):
    def compilation(self, files):
        return compilation.Compilation(self.tree(files), [])

    def test_a_header_that_leans_on_another(self):
        made = self.compilation({
            "accelerate/good.h": ONCE + "#include <vector>\ninline std::vector<int> a;\n",
            "accelerate/leaning.h": ONCE + "inline std::vector<int> b;\n",
            "accelerate/unguarded.h": "struct Twice {};\n",
        })
        for compiler in filter(lambda name: name not in compilation.missing_compilers(), compilation.COMPILERS):
            found = compilation.headers_compile(made.tree, made, Cache(None), [compiler])
            self.assertEqual([("accelerate/leaning.h", "header-alone"), ("accelerate/unguarded.h", "header-alone")],
                             [(f.path, f.rule) for f in found])

    def test_umbrella(self):
        made = self.compilation({compilation.UMBRELLA: ONCE + "int a;\nint b;\nint c;\n"})
        self.assertEqual([], list(compilation.umbrella_size(made.tree, made, Cache(None), limit=4)))
        found = list(compilation.umbrella_size(made.tree, made, Cache(None), limit=3))
        self.assertEqual([(compilation.UMBRELLA, "umbrella")], [(f.path, f.rule) for f in found])

    def test_only_what_passed_is_remembered_and_an_included_header_counts(self):
        files = {"accelerate/a.h": ONCE + '#include "accelerate/b.h"\ninline int a = b;\n',
                 "accelerate/b.h": ONCE + "inline int b = 1;\n"}
        cache = Cache(self.root / "build/lint")

        def run():
            cache.hits = cache.misses = 0
            made = self.compilation(files)
            found = [f.path for f in compilation.headers_compile(made.tree, made, cache, ["g++"])]
            return found, cache.misses

        self.assertEqual(([], 2), run())
        self.assertEqual(([], 0), run())
        files["accelerate/b.h"] = ONCE + "inline int other = 1;\n"
        self.assertEqual((["accelerate/a.h"], 2), run())
        self.assertEqual((["accelerate/a.h"], 1), run())


class Format(RuleTest):
    def test_first_line_that_differs(self):
        program = layout.find_clang_format()
        if program is None:
            self.skipTest("clang-format 14 is not installed")
        files = {".clang-format": "BasedOnStyle: Google\n", "accelerate/a.cpp": "int a;\nint  b;\n", "tests/b.cpp": "int b;\n"}
        tree = self.tree(files)
        self.assertEqual([("accelerate/a.cpp", 2, "format")],
                         [(f.path, f.line, f.rule) for f in layout.clang_format(tree, program, Cache(None))])
        self.assertEqual(["accelerate/a.cpp"], list(layout.write_formatted(tree, program)))
        self.assertEqual([], list(layout.clang_format(Tree(self.root), program, Cache(None))))


class Mutations(RuleTest):
    PATCH = "A mistake.\n--- a/x.cpp\n+++ b/x.cpp\n@@ -1,3 +1,3 @@\n a\n-b\n+c\n d\n"

    def mutation(self, patch):
        self.tree({"01-x.patch": patch})
        return mutations.read_all(self.root)[0]

    def test_one_line_changes_or_goes(self):
        self.assertEqual("0\na\nc\nd\n", self.mutation(self.PATCH).apply("0\na\nb\nd\n"))
        self.assertEqual("a\nd\n", self.mutation(self.PATCH.replace("+c\n", "")).apply("a\nb\nd\n"))

    def test_lines_that_are_gone_or_not_unique(self):
        for text in ["a\nB\nd\n", "a\nb\nd\na\nb\nd\n"]:
            with self.assertRaisesRegex(mutations.DoesNotApply, "01-x.patch"):
                self.mutation(self.PATCH).apply(text)

    def test_patches_of_another_form(self):
        for patch in [self.PATCH.replace("-b\n", "-b\n-b\n"), self.PATCH.split("\n", 1)[1], self.PATCH * 2]:
            with self.assertRaises(mutations.DoesNotApply):
                self.mutation(patch)


class Program(unittest.TestCase):
    def test_a_finding_reads_as_promised(self):
        finding = words.Finding("a.h", 3, "exit", "`exit`", "an Error", "Throw")
        self.assertEqual("a.h:3: exit: got `exit`, expected an Error. Throw.", str(finding))

    def test_every_rule_is_run(self):
        modules = [headers, layers, parity, sizes, words]
        rules = {f for m in modules for name, f in vars(m).items()
                 if callable(f) and f.__module__ == m.__name__ and f.__code__.co_flags & 0x20}
        self.assertEqual(rules, rules & set(program.TEXT_RULES))


if __name__ == "__main__":
    unittest.main()
