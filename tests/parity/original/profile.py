"""Sums and tables of PyTorch's profiler over invented recordings: what it makes of them does not depend on a clock."""

import random
from types import SimpleNamespace

import torch
from torch.autograd import DeviceType

NAMES = ["aten::mm", "aten::addmm", "aten::add", "aten::copy_", "aten::to", "MmBackward0"]
NAMES.append("a_name_that_is_longer_than_the_column_for_names_is_wide")
SHAPES = [[[2, 3], [3, 4]], [[], [5]], [], [[4096, 8192]] * 8]


# Nanoseconds of one tick: averages of whole ticks do not end in half a nanosecond, which each language rounds its way.
TICK = 64


class Recording:
    def __init__(self, seed, device, memory):
        self.random, self.device, self.events, self.memory = random.Random(seed), device, [], []
        self.next_id, self.wants_memory = 1, memory

    def add(self, name, start, end, thread, **given):
        event = {"name": name, "start": TICK * start, "end": TICK * end, "thread": thread}
        event |= {"id": self.next_id, "linked": 0}
        event |= {"device": 0, "is_async": False, "is_user_annotation": False, "flops": 0, "shapes": [], **given}
        self.next_id += 1
        self.events.append(event)
        return event

    def operators(self, thread, start, end, depth, around=None):
        """Fills a span of time with operators, some of them inside others."""
        at = start + self.random.randrange(1, 50)
        while at < end - 20:
            until = min(at + self.random.randrange(20, max(21, end - start)), end)
            wraps = around is not None and self.random.random() < 0.25
            event = self.add(around if wraps else self.random.choice(NAMES), at, until, thread)
            event["flops"] = self.random.choice([0, 0, 1500, 2_000_000])
            event["shapes"] = self.random.choice(SHAPES)
            if self.device and self.random.random() < 0.5:
                for _ in range(self.random.randrange(1, 3)):
                    launched = until + self.random.randrange(500)
                    kernel = {"device": 1, "linked": event["id"]}
                    self.add("a_kernel", launched, launched + self.random.randrange(1, 900), 7, **kernel)
                middle = (at + until) // 2
                self.add("cudaLaunchKernel", middle, middle + 3, 99, linked=event["id"])
            if self.wants_memory and self.random.random() < 0.6:
                size = self.random.choice([512, -256, 3 << 20, 5 << 30, 2000])
                on_gpu = bool(self.device) and self.random.random() < 0.5
                record = {"at": TICK * self.random.randrange(at, until + 1)}
                self.memory.append(record | {"cpu_bytes": 0 if on_gpu else size, "device_bytes": size if on_gpu else 0})
            if depth > 0 and self.random.random() < 0.7:
                self.operators(thread, at, until, depth - 1, event["name"])
            at = until + self.random.randrange(0, 60)

    def fill(self):
        for thread in (1, 2):
            self.operators(thread, 1000 * thread, 1000 * thread + 1500, 3)
        self.add("ProfilerStep*", 900, 7000, 1, is_user_annotation=True)
        # One that lies across others, two of no time, one of several threads, one that reaches its parent's end.
        self.add("aten::add", 905, 7005, 1)
        self.add("aten::empty", 1500, 1500, 1)
        self.add("aten::empty", 1500, 1500, 1)
        self.add("wait", 1000, 9000, 1, is_async=True)
        self.add("long", 10_000, 500_000, 1)
        self.add("longer", 500_000, 3_00500_000, 1)
        if self.wants_memory:
            self.memory.append({"at": 10, "cpu_bytes": 4096, "device_bytes": 0})
        return self


def kineto_event(event):
    """What the profiler asks of a recorded event."""
    device = DeviceType.CUDA if event["device"] else DeviceType.CPU
    answers = {
        "name": event["name"], "overload_name": "", "start_ns": event["start"], "end_ns": event["end"],
        "start_thread_id": event["thread"], "end_thread_id": event["thread"] + event["is_async"],
        "fwd_thread_id": 0, "correlation_id": event["id"], "linked_correlation_id": event["linked"],
        "device_type": device, "device_index": 0, "device_resource_id": 0, "is_async": event["is_async"],
        "is_hidden_event": False, "is_user_annotation": event["is_user_annotation"], "flops": event["flops"],
        "shapes": event["shapes"], "concrete_inputs": [], "kwinputs": {}, "stack": [], "scope": 0,
        "sequence_nr": -1, "metadata_json": "", "cuda_elapsed_us": -1, "privateuse1_elapsed_us": -1, "nbytes": 0,
    }  # fmt: skip
    return SimpleNamespace(**{name: (lambda value=value: value) for name, value in answers.items()})


def memory_event(record):
    on_gpu = record["device_bytes"] != 0
    event = {"name": "[memory]", "start": record["at"], "end": record["at"], "thread": 1, "id": 0, "linked": 0}
    event |= {"device": on_gpu, "is_async": False, "is_user_annotation": False, "flops": 0, "shapes": []}
    answers = kineto_event(event)
    answers.nbytes = lambda: record["device_bytes"] if on_gpu else record["cpu_bytes"]
    return answers


def row(average):
    fields = ["key", "count", "cpu_time_total", "self_cpu_time_total", "device_time_total", "self_device_time_total"]
    fields += ["cpu_memory_usage", "self_cpu_memory_usage", "device_memory_usage", "self_device_memory_usage"]
    values = {name: getattr(average, name) for name in fields + ["flops"]}
    return [values["key"], *(round(value, 6) for value in list(values.values())[1:])]


TABLES = [
    {},
    {"row_limit": 6},
    {"sort_by": "self_cpu_time_total", "row_limit": 3},
    {"sort_by": "cuda_time_total", "row_limit": -1, "time_unit": "us"},
    {"sort_by": "count", "header": "With a header", "max_name_column_width": 20, "time_unit": "s"},
    {"sort_by": "self_cpu_memory_usage", "row_limit": 5, "time_unit": "ms"},
]


def case(seed, device=False, memory=False, flops=False, shapes=False):
    recording = Recording(seed, device, memory).fill()
    events = [kineto_event(event) for event in recording.events] + [memory_event(record) for record in recording.memory]
    profile = torch.autograd.profiler.profile(
        use_kineto=True, profile_memory=memory, with_flops=flops, record_shapes=True
    )
    profile.use_device = "cuda" if device else None
    profile.kineto_results = SimpleNamespace(events=lambda: events, trace_start_ns=lambda: 0)
    profile._needs_processing = True
    averages = profile.key_averages(group_by_input_shape=shapes)
    return {
        "recorded": {"device": "CUDA" if device else "", "memory": memory, "flops": flops},
        "group_by_input_shape": shapes,
        "events": [list(event.values())[:-1] + [str(event["shapes"])] for event in recording.events],
        "memory": [list(record.values()) for record in recording.memory],
        "averages": [row(average) for average in averages],
        "tables": [{"options": options, "text": averages.table(**options)} for options in TABLES[seed - 1 : seed + 1]],
    }


def document():
    cases = [case(1), case(2, flops=True, shapes=True), case(3, device=True, memory=True), case(4, memory=True)]
    cases.append(case(5, device=True, memory=True, flops=True, shapes=True))
    return {"cases": cases}
