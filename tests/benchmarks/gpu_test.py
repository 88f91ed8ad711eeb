"""On a GPU: over 100 steps a captured step has the losses of the eager one, by hand and prepared, in every task.

TRAIN is the program. Skips where nvidia-smi lists no GPU.
"""

import concurrent.futures
import json
import os
import shutil
import subprocess
import unittest

LOSSES = 100
TASKS = (("mlp", "no"), ("resnet18", "bf16"), ("bert", "bf16"), ("gpt2", "bf16"), ("llama1b", "bf16"))
LOOPS = {"by hand": ("--plain",), "by hand, graph": ("--plain", "--graph"), "prepared": (), "again": (), "graph": ("--cuda-graph",)}
# A replay runs the same kernels on the same numbers, so losses are equal bit for bit where kernels are deterministic. The
# gradients of embeddings and convolutions are summed with atomic additions; `again` shows how far two runs of one loop come
# apart by that, and a graph may come four times as far. What the loop by hand and ours sum in another order is the norm of
# all gradients, 1e-7 of the step. Where products round to 8 bits (bf16) or 10 (TF32, which is off here) that turns over a
# rounding now and then, 4e-3 or 5e-4 of one product, and batch norms over eight images let it grow four times a step: of
# these two loops the first losses are compared, and those of the net with batch norms in float32, where an H200 had them
# within 6e-6.
FLOOR, EARLY = 1e-7, 20
BY_HAND = {"no": 1e-4, "bf16": 2e-2}
BY_HAND_IN = {"resnet18": "no"}
ENVIRONMENT = os.environ | {"NVIDIA_TF32_OVERRIDE": "0"}


def gpus():
    if not shutil.which("nvidia-smi"):
        return 0
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.count("GPU ")


def run(task, precision, loop):
    words = ["--task", task, "--tiny", "--mixed-precision", precision, "--no-shuffle", "--dropout", "0", "--steps", "6"]
    words += ["--losses", str(LOSSES), "--warmup", str(LOSSES), *LOOPS[loop]]
    done = subprocess.run([os.environ["TRAIN"], *words], capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr.strip()


def distance(some, others):
    assert len(some) == len(others) > 0
    return max(abs(a - b) / abs(b) for a, b in zip(some, others))


@unittest.skipUnless(gpus(), "needs an NVIDIA GPU: none is visible")
class CapturedSteps(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        keys = [(task, precision, loop) for task, precision in TASKS for loop in LOOPS]
        keys += [(task, precision, loop) for task, precision in BY_HAND_IN.items() for loop in ("prepared", "by hand")]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            cls.runs = dict(zip(keys, pool.map(lambda key: run(*key), keys)))

    def losses(self, task, precision, loop):
        code, output, errors = self.runs[task, precision, loop]
        self.assertEqual(0, code, f"{task}, {loop}: {errors}")
        return json.loads(output.splitlines()[-1])["losses"]

    def each(self, check):
        for task, precision in TASKS:
            with self.subTest(task=task, precision=precision):
                check(task, precision)

    def spread(self, task, precision):
        spread = distance(self.losses(task, precision, "prepared"), self.losses(task, precision, "again"))
        return max(FLOOR, 4 * spread)

    def test_the_graph_by_hand(self):
        def check(task, precision):
            eager, graph = (self.losses(task, precision, loop) for loop in ("by hand", "by hand, graph"))
            self.assertLessEqual(distance(graph, eager), self.spread(task, precision))

        self.each(check)

    def test_prepared_as_by_hand(self):
        def check(task, precision):
            precision = BY_HAND_IN.get(task, precision)
            prepared, by_hand = (self.losses(task, precision, loop) for loop in ("prepared", "by hand"))
            self.assertLessEqual(distance(prepared[:EARLY], by_hand[:EARLY]), BY_HAND[precision])
            self.assertGreater(len(set(prepared)), LOSSES // 4)

        self.each(check)

    def test_the_prepared_graph(self):
        def check(task, precision):
            code, _, errors = self.runs[task, precision, "graph"]
            if code != 0 and "has no CudaGraph" in errors:
                self.skipTest(errors)
            eager, graph = (self.losses(task, precision, loop) for loop in ("prepared", "graph"))
            self.assertLessEqual(distance(graph, eager), self.spread(task, precision), errors)

        self.each(check)

    def test_memory_is_measured(self):
        _, output, _ = self.runs["gpt2", "bf16", "prepared"]
        line = json.loads(output.splitlines()[-1])
        self.assertTrue(0 < line["peak_gpu_gb"] <= line["reserved_gpu_gb"] < 5, line)


if __name__ == "__main__":
    unittest.main()
