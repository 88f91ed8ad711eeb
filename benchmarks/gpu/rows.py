"""What is measured on a GPU machine, and what the project wants to reach there."""

import typing

PREPARED, GRAPH, MASTERS = "prepared", "prepared, graph", "prepared, graph, bf16 parameters"
FUSED_LOSS, MASTERS_FUSED_LOSS = GRAPH + ", fused loss", MASTERS + ", fused loss"
PLAIN, PLAIN_GRAPH = "by hand", "by hand, graph"
VIEWS, MASTERS_VIEWS = GRAPH + ", gradients in buckets", MASTERS_FUSED_LOSS + ", gradients in buckets"
# As many at the same time as the row has processes, one on each GPU, and none talks to another: the slowest counts.
ALONE, MASTERS_ALONE = GRAPH + ", each GPU alone", MASTERS_FUSED_LOSS + ", each GPU alone"
HF, INDUCTOR, REDUCE = "HF", "HF, inductor", "HF, reduce-overhead"
PEERS = (HF, INDUCTOR, REDUCE)
# The same shape as the package transformers has it: what users of the peer train.
HF_PUBLISHED, INDUCTOR_PUBLISHED = "HF, transformers", "HF, inductor, transformers"
PUBLISHED = (HF_PUBLISHED, INDUCTOR_PUBLISHED)


class Contestant(typing.NamedTuple):
    flags: tuple
    precision: str | None = None  # instead of the row's
    seconds: float = 20  # guess of one run, until there has been one
    alone: bool = False  # each GPU by itself


BUCKETS = ("--bucket-view", "--bucket-cap-mb", "50")

CONTESTANTS = {
    GRAPH: Contestant(("--cuda-graph",)),
    PLAIN_GRAPH: Contestant(("--plain", "--graph")),
    HF: Contestant((), seconds=30),
    PREPARED: Contestant(()),
    PLAIN: Contestant(("--plain",)),
    MASTERS: Contestant(("--cuda-graph",), precision="bf16_master"),
    FUSED_LOSS: Contestant(("--cuda-graph", "--loss", "fused")),
    MASTERS_FUSED_LOSS: Contestant(("--cuda-graph", "--loss", "fused"), precision="bf16_master"),
    VIEWS: Contestant(("--cuda-graph", *BUCKETS)),
    MASTERS_VIEWS: Contestant(("--cuda-graph", "--loss", "fused", *BUCKETS), precision="bf16_master"),
    ALONE: Contestant(("--cuda-graph",), alone=True),
    MASTERS_ALONE: Contestant(("--cuda-graph", "--loss", "fused"), precision="bf16_master", alone=True),
    INDUCTOR: Contestant(("--mode", "inductor"), seconds=75),
    REDUCE: Contestant(("--mode", "reduce-overhead"), seconds=60),
    HF_PUBLISHED: Contestant(("--transformers",), seconds=40),
    INDUCTOR_PUBLISHED: Contestant(("--transformers", "--mode", "inductor"), seconds=100),
    # What single switches buy; not part of a task's row.
    "prepared, fp32": Contestant((), precision="no"),
    "prepared, graph, flash attention": Contestant(("--cuda-graph", "--attention", "flash")),
    "HF, default AdamW": Contestant(("--no-fused",), seconds=30),
}


class Target(typing.NamedTuple):
    """`key` of `who` is at most `at_most` times that of the fastest of `to`, or itself at most that; likewise at least."""

    who: str
    key: str = "ms"
    to: tuple = ()
    to_row: str | None = None  # where `to` ran; unset: the same row
    at_most: float | None = None
    at_least: float | None = None
    or_more: float | None = None  # also met if the difference is at most this


class Row(typing.NamedTuple):
    title: str
    flags: tuple
    contestants: tuple
    steps: tuple  # measured and before, of our program
    peer_steps: tuple
    rounds: int
    precision: str = "no"
    processes: int = 1
    targets: tuple = ()


LANGUAGE = (GRAPH, PLAIN_GRAPH, HF, INDUCTOR, PREPARED, PLAIN)

# In the order of what is wanted most: with little time the end is left out.
ROWS = {
    "mlp": Row(
        "mlp (64) fp32",
        ("--task", "mlp"),
        (GRAPH, PLAIN_GRAPH, HF, PREPARED, PLAIN, "HF, default AdamW"),
        (1200, 200),
        (600, 100),
        rounds=3,
        targets=(
            Target(GRAPH, to=(PLAIN_GRAPH,), at_most=1.05),
            Target(GRAPH, "host_ms", at_most=0.060),
            Target(HF, to=(GRAPH,), at_least=14),
            Target(PREPARED, to=(PLAIN,), at_most=1.01, or_more=0.020),
        ),
    ),
    "gpt2": Row(
        "gpt2 (16 x 1024) bf16",
        ("--task", "gpt2"),
        (MASTERS_FUSED_LOSS, INDUCTOR, MASTERS, GRAPH, FUSED_LOSS, PLAIN_GRAPH, HF, PREPARED, PLAIN,
         HF_PUBLISHED, INDUCTOR_PUBLISHED),
        (60, 12),
        (60, 12),
        rounds=2,
        precision="bf16",
        targets=(
            Target(MASTERS_FUSED_LOSS, to=(INDUCTOR,), at_most=1.0),
            Target(MASTERS_FUSED_LOSS, "peak_gpu_gb", at_most=12.5),
            Target(GRAPH, "captured_step_s", at_most=6),
        ),
    ),
    "gpt2-small": Row(
        "gpt2 (4 x 256) bf16",
        ("--task", "gpt2", "--batch-size", "4", "--length", "256"),
        (GRAPH, PLAIN_GRAPH, HF, PREPARED, PLAIN),
        (240, 24),
        (120, 24),
        rounds=3,
        precision="bf16",
        targets=(Target(GRAPH, to=(PLAIN_GRAPH,), at_most=1.03),),
    ),
    "bert": Row(
        "bert-base (16 x 128) bf16",
        ("--task", "bert"),
        (MASTERS, GRAPH, REDUCE, HF, INDUCTOR, PLAIN_GRAPH, PREPARED, PLAIN),
        (240, 24),
        (120, 24),
        rounds=2,
        precision="bf16",
        targets=(Target(MASTERS, to=PEERS, at_most=0.9),),
    ),
    "resnet18": Row(
        "resnet18 32x32 (128) bf16, channels-last",
        ("--task", "resnet18"),
        (GRAPH, HF, PLAIN_GRAPH, PREPARED, PLAIN, INDUCTOR),
        (240, 24),
        (120, 24),
        rounds=2,
        precision="bf16",
        targets=(Target(GRAPH, to=(HF,), at_most=0.35),),
    ),
    "llama1b": Row(
        "llama 1.24B (4 x 2048) bf16",
        ("--task", "llama1b"),
        (MASTERS_FUSED_LOSS, HF_PUBLISHED, HF, MASTERS, GRAPH, FUSED_LOSS, PLAIN_GRAPH, INDUCTOR, PREPARED),
        (36, 12),
        (36, 12),
        rounds=1,
        precision="bf16",
        targets=(
            Target(MASTERS_FUSED_LOSS, to=(HF_PUBLISHED,), at_most=0.75),
            Target(MASTERS_FUSED_LOSS, to=(HF,), at_most=0.75),
        ),
    ),
    "mlp-2": Row(
        "mlp (64 each), 2 GPUs",
        ("--task", "mlp"),
        (GRAPH, PLAIN_GRAPH, HF, PREPARED, PLAIN),
        (1200, 200),
        (600, 100),
        rounds=3,
        processes=2,
        targets=(Target(GRAPH, to=(PLAIN_GRAPH,), at_most=1.1),),
    ),
    "gpt2-2": Row(
        "gpt2 (16 x 1024 each) bf16, 2 GPUs",
        ("--task", "gpt2"),
        (VIEWS, ALONE, MASTERS_VIEWS, MASTERS_ALONE, GRAPH, INDUCTOR, MASTERS_FUSED_LOSS, HF, PREPARED, PLAIN),
        (60, 24),
        (60, 24),
        rounds=2,
        precision="bf16",
        processes=2,
        targets=(
            Target(VIEWS, to=(GRAPH,), to_row="gpt2", at_most=1.04),
            Target(VIEWS, to=(ALONE,), at_most=1.04),
            Target(MASTERS_VIEWS, to=(MASTERS_ALONE,), at_most=1.04),
        ),
    ),
    "gpt2-switches": Row(
        "gpt2 (16 x 1024), single switches",
        ("--task", "gpt2"),
        (PREPARED, GRAPH, "prepared, graph, flash attention", "prepared, fp32"),
        (60, 12),
        (60, 12),
        rounds=1,
        precision="bf16",
    ),
}

# What docs/performance.md shows: the switch in a user's words, the row, without it, with it.
SWITCHES = (
    ("the peer's loop, ported", "mlp", HF, PREPARED),
    ("the peer's loop, ported", "gpt2", HF, PREPARED),
    ("`.cuda_graph = CudaGraph{}`", "mlp", PREPARED, GRAPH),
    ("`.cuda_graph = CudaGraph{}`", "gpt2-small", PREPARED, GRAPH),
    ("`.cuda_graph = CudaGraph{}`", "bert", PREPARED, GRAPH),
    ("`.cuda_graph = CudaGraph{}`", "resnet18", PREPARED, GRAPH),
    ("`.cuda_graph = CudaGraph{}`", "gpt2", PREPARED, GRAPH),
    ("`.cuda_graph = CudaGraph{}`", "llama1b", PREPARED, GRAPH),
    ("bf16 parameters, fp32 masters", "gpt2", GRAPH, MASTERS),
    ("`accelerate::nn::functional::cross_entropy`", "gpt2", MASTERS, MASTERS_FUSED_LOSS),
    ("`accelerate::nn::functional::cross_entropy`", "llama1b", MASTERS, MASTERS_FUSED_LOSS),
    ('`.mixed_precision = "bf16"`', "gpt2-switches", "prepared, fp32", PREPARED),
    ("cuDNN attention before flash", "gpt2-switches", "prepared, graph, flash attention", GRAPH),
)
