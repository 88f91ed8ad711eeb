"""Tables, targets, picture and runner of benchmarks/run_gpu.py and plot.py, on numbers made for it and without a GPU."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import plot
import profile_step
from gpu.rows import ALONE, CONTESTANTS, GRAPH, HF, INDUCTOR, MASTERS, PEERS, PLAIN, PLAIN_GRAPH, PREPARED, REDUCE, ROWS, SWITCHES, Target
from gpu.table import Results, judged, report


def result(ms, **more):
    known = {"ms": ms, "host_ms": ms / 2, "peak_gpu_gb": 1.0, "reserved_gpu_gb": 2.0, "first_step_s": 1.0, "captured_step_s": 2.0}
    return known | {"losses": [4.0, 3.0]} | more


def session(name):
    return {"session": name, "date": "2026-01-31", "gpus": ["GPU of tests"], "driver": "1", "cpu": "CPU", "torch": "2.11.0",
            "accelerate": "1.15.0", "python": "3.11", "commit": "abc", "command": "run_gpu.py"}


def ran(row, who, number, ms, name="a", **more):
    return {"session": name, "row": row, "contestant": who, "round": number, "result": result(ms, **more)}


def failed(row, who, why, name="a"):
    return {"session": name, "row": row, "contestant": who, "round": 0, "why": why}


class Rows(unittest.TestCase):
    def test_targets_and_switches_name_what_runs(self):
        for name, row in ROWS.items():
            self.assertLessEqual(set(row.contestants), set(CONTESTANTS), name)
            for target in row.targets:
                self.assertIn(target.who, row.contestants, name)
                self.assertEqual(1, (target.at_most is not None) + (target.at_least is not None), name)
                self.assertTrue(set(target.to) & set(ROWS[target.to_row or name].contestants) or not target.to, name)
        for _, row, without, with_it in SWITCHES:
            for who in (without, with_it):
                self.assertIn(who, ROWS[row].contestants, row)

    def test_programs_know_the_tasks(self):
        for folder, flag in (("train/main.cpp", '"--{}"'), ("peer/train.py", '"--{}"')):
            text = (ROOT / "benchmarks" / folder).read_text()
            for used in ("task", "batch-size", "length", "mixed-precision", "steps", "warmup", "losses", "no-shuffle", "started-at"):
                self.assertIn(flag.format(used), text, folder)


class Numbers(unittest.TestCase):
    def test_ratios_are_formed_inside_rounds(self):
        records = [session("a")]
        for number, (ours, theirs) in enumerate([(1.0, 2.0), (3.0, 4.0), (10.0, 11.0)]):
            records += [ran("mlp", GRAPH, number, ours), ran("mlp", PLAIN_GRAPH, number, theirs)]
        results = Results(records)
        self.assertEqual(3.0, results.median("mlp", GRAPH))
        self.assertEqual(0.75, results.ratio("mlp", GRAPH, PLAIN_GRAPH))

    def test_without_a_common_round_medians_are_compared(self):
        results = Results([session("a"), ran("mlp", GRAPH, 0, 1.0), ran("mlp", HF, 1, 4.0)])
        self.assertEqual(0.25, results.ratio("mlp", GRAPH, HF))
        self.assertIsNone(results.ratio("mlp", GRAPH, PLAIN))

    def test_a_row_is_from_one_invocation(self):
        records = [session("a"), ran("mlp", GRAPH, 0, 1.0), ran("mlp", HF, 0, 50.0), ran("bert", GRAPH, 0, 7.0)]
        records += [session("b"), ran("mlp", GRAPH, 0, 2.0, "b"), failed("bert", GRAPH, "broke", "b")]
        results = Results(records)
        self.assertEqual(2.0, results.median("mlp", GRAPH))
        self.assertIsNone(results.median("mlp", HF), "another machine's number beside this one")
        self.assertEqual(7.0, results.median("bert", GRAPH), "an invocation that measured nothing takes nothing away")
        self.assertNotIn(("bert", GRAPH), results.why)

    def test_the_best_peer_is_the_fastest(self):
        runs = [ran("bert", GRAPH, 0, 9.0), ran("bert", HF, 0, 30.0), ran("bert", INDUCTOR, 0, 20.0), ran("bert", REDUCE, 0, 10.0)]
        wanted, value, met = judged(Results([session("a"), *runs]), "bert", Target(GRAPH, to=PEERS, at_most=0.9))
        self.assertEqual((f"{GRAPH}: step <= 0.9 x {REDUCE}", "0.900", True), (wanted, value, met))

    def test_bounds_at_their_edge_and_beyond(self):
        def met(target, **ms):
            runs = [ran("mlp", who, 0, value) for who, value in ms.items()]
            return judged(Results([session("a"), *runs]), "mlp", target)[2]

        at_most, at_least = Target("x", to=("y",), at_most=1.5), Target("x", to=("y",), at_least=14)
        self.assertTrue(met(at_most, x=1.5, y=1.0))
        self.assertFalse(met(at_most, x=1.51, y=1.0))
        self.assertTrue(met(at_least, x=14.0, y=1.0))
        self.assertFalse(met(at_least, x=13.9, y=1.0))
        self.assertIsNone(met(at_least, x=13.9))
        tax = Target("x", to=("y",), at_most=1.01, or_more=0.5)
        self.assertTrue(met(tax, x=1.5, y=1.0))
        self.assertFalse(met(tax, x=1.75, y=1.0))
        self.assertTrue(met(tax, x=101.0, y=100.0))

    def test_a_value_alone_and_a_ratio_between_rows(self):
        runs = [ran("gpt2", GRAPH, 0, 40.0, peak_gpu_gb=12.6), ran("gpt2-2", GRAPH, 0, 41.0)]
        results = Results([session("a"), *runs])
        self.assertFalse(judged(results, "gpt2", Target(GRAPH, "peak_gpu_gb", at_most=12.5))[2])
        self.assertEqual("1.025", judged(results, "gpt2-2", Target(GRAPH, to=(GRAPH,), to_row="gpt2", at_most=1.04))[1])


class Report(unittest.TestCase):
    def setUp(self):
        self.records = [session("a")]
        for who, ms in ((GRAPH, 0.14), (PLAIN_GRAPH, 0.139), (HF, 2.4), (PREPARED, 0.8), (PLAIN, 0.79)):
            self.records.append(ran("mlp", who, 0, ms, losses=[2.0, 1.0 if who != HF else 1.001]))
        self.records.append(failed("gpt2", GRAPH, "not done after 200 s"))
        self.text = report(self.records)

    def test_what_ran_and_what_did_not(self):
        self.assertIn("| mlp (64) fp32 | 0.140 | 0.139 | 2.400 | 0.800 | 0.790 |", self.text)
        self.assertIn("| 1.007 | yes |", self.text)
        self.assertIn("| 0.070 | **no** |", self.text)  # host time
        self.assertIn("- gpt2 (16 x 1024) bf16, prepared, graph: not done after 200 s", self.text)
        self.assertIn("| - | not done after 200 s |", self.text)
        self.assertIn("1 x GPU of tests, driver 1", self.text)
        self.assertIn("commit abc", self.text)

    def test_losses_are_compared_with_those_by_hand(self):
        self.assertIn("| mlp (64) fp32 | HF | 2 | 1.0e-03 |", self.text)
        self.assertIn("| mlp (64) fp32 | prepared, graph | 2 | 0.0e+00 |", self.text)

    def test_rows_have_as_many_cells_as_their_header(self):
        width = None
        for line in self.text.splitlines():
            cells = line.count(" | ") if line.startswith("| ") else None
            if cells is not None and width is not None and not line.startswith("| ---"):
                self.assertEqual(width, cells, line)
            width = cells if cells is not None else None


class Picture(unittest.TestCase):
    def setUp(self):
        runs = [ran("mlp", HF, 0, 2.0), ran("mlp", GRAPH, 0, 0.5), ran("gpt2", HF, 0, 100.0), ran("gpt2", INDUCTOR, 0, 50.0),
                ran("gpt2", GRAPH, 0, 60.0), ran("gpt2", MASTERS, 0, 40.0), ran("bert", GRAPH, 0, 9.0), ran("mlp", PREPARED, 0, 1.0)]
        self.results = Results([session("a"), *runs])

    def test_bars_are_as_long_as_steps_relative_to_the_peer(self):
        root = xml.fromstring(plot.svg(self.results))
        spaces = "{http://www.w3.org/2000/svg}"
        lengths = {one.find(spaces + "title").text: float(one.get("width")) for one in root.iter(spaces + "rect") if one.find(spaces + "title") is not None}
        whole = lengths["Accelerate, eager: 2.000 ms"]
        self.assertEqual(whole, lengths["Accelerate, eager: 100.0 ms"])
        self.assertAlmostEqual(whole / 4, lengths["accelerate.cpp, .cuda_graph: 0.500 ms"], delta=0.1)
        self.assertAlmostEqual(whole * 0.4, lengths["accelerate.cpp, .cuda_graph: 40.0 ms"], delta=0.1)
        self.assertEqual(6, len(lengths), "a task without the peer has no bars")

    def test_the_page_is_filled_between_its_marks(self):
        page = (ROOT / "docs/performance.md").read_text()
        parts = {"picture": "P\n", "machines": "M\n", "switches": plot.switches_table(self.results), "targets": "T\n"}
        once = plot.filled(page, parts)
        self.assertIn("| `.cuda_graph = CudaGraph{}` | mlp (64) fp32 | 1.000 | 0.500 | 2.00 | 1.000 -> 1.000 |", once)
        self.assertEqual(once, plot.filled(once, parts))
        self.assertIn("<!-- picture -->\nP\n<!-- end -->", once)
        with self.assertRaisesRegex(ValueError, "<!-- other -->"):
            plot.filled(page, {"other": ""})


    def test_the_readme_has_both_sides_or_nothing(self):
        text = plot.readme_table(self.results)
        self.assertIn("| mlp (64) fp32 | 0.500 | - | 2.000 | - | 4.00 |", text)
        self.assertIn("| gpt2 (16 x 1024) bf16 | 40.0 | - | 100.0 | 50.0 | 2.50 / 1.25 |", text)
        self.assertNotIn("bert", text)
        self.assertIn("on GPU of tests:", text)
        self.assertEqual("", plot.readme_table(Results([session("a"), ran("mlp", HF, 0, 2.0)])))
        readme = (ROOT / "README.md").read_text()
        self.assertIn(text, plot.filled(readme, {"gpu": text}))

    def test_the_program_writes_all_three_files(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            lines = [session("a"), ran("mlp", HF, 0, 2.0), ran("mlp", GRAPH, 0, 0.5), ran("mlp", PREPARED, 0, 1.0)]
            (folder / "r.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            for page in ("docs/performance.md", "README.md"):
                (folder / page.split("/")[-1]).write_text((ROOT / page).read_text())
            flags = ["--page", folder / "performance.md", "--readme", folder / "README.md", "--svg", folder / "p.svg"]
            subprocess.run([sys.executable, ROOT / "benchmarks/plot.py", folder / "r.jsonl", *flags], check=True)
            self.assertIn("](p.svg)", (folder / "performance.md").read_text())
            self.assertIn("| mlp (64) fp32 | 0.500 | - | 2.000 | - | 4.00 |", (folder / "README.md").read_text())
            self.assertTrue((folder / "p.svg").read_text().startswith("<svg"))


class Profile(unittest.TestCase):
    def test_kernels_are_summed_by_kind(self):
        event = lambda cat, name, dur, ts=0: {"cat": cat, "name": name, "dur": dur, "ts": ts}
        events = [event("kernel", "nvjet_hsh_128x256", 3000), event("kernel", "void cudnn_generated_fort_native_sdpa_sm90", 600),
                  event("kernel", "vectorized_layer_norm_kernel", 300), event("kernel", "nvjet_hsh_64", 3000, 9000),
                  event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 3), event("cpu_op", "aten::mm", 50_000)]
        text = profile_step.report({"traceEvents": events}, steps=3)
        self.assertIn("| matrix products | 2.000 | 1 |", text)
        self.assertIn("| attention | 0.200 | 0 |", text)
        self.assertIn("| normalisation | 0.100 | 0 |", text)
        self.assertIn("| DtoH copies | 0.001 | 0 |", text)
        self.assertIn("| from the first to the last | 4.000 |", text)
        self.assertNotIn("aten::mm", text)
        self.assertIn("no work of a GPU", profile_step.report({"traceEvents": []}, steps=3))


TRAIN = """#!/bin/sh
echo "$@" >>"$(dirname "$0")/calls"
case "$*" in
  *--cuda-graph*) echo "the graph is not captured: reason" >&2 ;;
  *--graph*) echo "first line" >&2; echo "broke" >&2; exit 3 ;;
  *--plain*) sleep 30 & sleep 30 ;;
esac
echo '{"ms": 1.5, "host_ms": 1, "peak_gpu_gb": 0, "reserved_gpu_gb": 0, "first_step_s": 1, "captured_step_s": 1, "losses": [1]}'
"""


class Runner(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.put("nvidia-smi", "#!/bin/sh\necho 'GPU of tests'\n")
        self.put("train", TRAIN)
        self.put("python", "#!/bin/sh\nexit 1\n")
        (self.folder / "commit").write_text("f00\n")

    def put(self, name, text):
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def run_gpu(self, *flags):
        where = ["--programs", self.folder, "--python", self.folder / "python", "--results", self.folder / "r.jsonl"]
        command = [sys.executable, ROOT / "benchmarks/run_gpu.py", *where, *flags]
        environment = os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual(0, done.returncode, done.stderr)
        return [json.loads(line) for line in (self.folder / "r.jsonl").read_text().splitlines()], done.stdout

    def test_a_failed_or_late_program_says_why_and_the_others_go_on(self):
        records, text = self.run_gpu("--only", "mlp", "mlp-2", "--timeout", "1", "--quick")
        why = {(one["row"], one["contestant"]): one.get("why") for one in records[1:]}
        self.assertEqual("f00", records[0]["commit"])
        self.assertIsNone(why["mlp", GRAPH])
        self.assertIsNone(why["mlp", PREPARED])
        self.assertEqual("ended with 3: broke", why["mlp", PLAIN_GRAPH])
        self.assertEqual("not done after 1 s", why["mlp", PLAIN])
        self.assertIn("has no accelerate", why["mlp", HF])
        self.assertEqual("needs 2 GPUs: 1 visible", why["mlp-2", GRAPH])
        self.assertIn("mlp (64) fp32, prepared, graph, said: the graph is not captured: reason", text)
        self.assertIn("| mlp (64) fp32 | 1.500 | 1.500 |", text)

    def test_rounds_repeat_and_flags_reach_the_program(self):
        records, _ = self.run_gpu("--only", "gpt2-small", "--contestants", GRAPH)
        self.assertEqual([0, 1, 2], [one["round"] for one in records[1:]])
        call = (self.folder / "calls").read_text().splitlines()[0]
        self.assertIn("--task gpt2 --batch-size 4 --length 256 --mixed-precision bf16 --cuda-graph --steps 240 --warmup 24", call)
        self.assertIn("--no-shuffle --started-at ", call)

    def test_gpus_that_compute_alone_do_so_at_once_and_the_slowest_counts(self):
        self.put("nvidia-smi", "#!/bin/sh\necho 'GPU of tests'; echo 'GPU of tests'\n")
        self.put("accelerate-cpp", "#!/bin/sh\nexit 1\n")
        self.put("train", """#!/bin/sh
touch "$(dirname "$0")/here$CUDA_VISIBLE_DEVICES"
while [ ! -e "$(dirname "$0")/here$((1 - CUDA_VISIBLE_DEVICES))" ]; do sleep 0.01; done
echo '{"ms": '$((40 + CUDA_VISIBLE_DEVICES))', "host_ms": 1, "peak_gpu_gb": 0, "reserved_gpu_gb": 0, "first_step_s": 1, "captured_step_s": 1, "losses": [1]}'
""")
        records, _ = self.run_gpu("--only", "gpt2-2", "--contestants", ALONE, "--quick")
        self.assertEqual((41, [40, 41]), (records[1]["result"]["ms"], records[1]["result"]["each_ms"]))

    def test_without_time_nothing_starts(self):
        records, text = self.run_gpu("--only", "mlp", "--contestants", GRAPH, "--minutes", "0.1")
        self.assertEqual(["left out: 0.1 minutes were over"], [one["why"] for one in records[1:]])
        self.assertFalse((self.folder / "calls").exists())
        self.assertIn("| - | left out: 0.1 minutes were over |", text)

    def test_the_table_alone(self):
        self.run_gpu("--only", "mlp", "--contestants", GRAPH, "--quick")
        before = (self.folder / "calls").read_text()
        records, text = self.run_gpu("--render")
        self.assertEqual(2, len(records))
        self.assertIn("| mlp (64) fp32 | 1.500 |", text)
        self.assertEqual(before, (self.folder / "calls").read_text())


if __name__ == "__main__":
    unittest.main()
