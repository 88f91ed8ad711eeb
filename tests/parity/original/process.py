"""Shares of what is split between processes, and the printed states."""

import logging
import warnings
from unittest import mock

from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType, GradientState, PartialState
from accelerate.utils import ProjectConfiguration
from accelerate.utils.other import check_os_kernel

RANKS = (1, 2, 3, 4, 8)
LENGTHS = range(20)
KERNELS = (
    ("Linux", "5.15.0-35-generic"),
    ("Darwin", "5.4.0-35-generic"),
    ("Linux", "5.4.0-35-generic"),
    ("Linux", "5.5.0"),
    ("Linux", "4.19.128-microsoft-standard"),
    ("Linux", "10.0.1"),
)


def become(rank, ranks):
    """One process that takes itself for another."""
    shared = PartialState._shared_state
    shared.update(
        num_processes=ranks,
        process_index=rank,
        distributed_type=DistributedType.MULTI_CPU if ranks > 1 else DistributedType.NO,
    )


def shares(padding):
    table = {}
    state = PartialState()
    for ranks in RANKS:
        for length in LENGTHS:
            if padding and length == 0:
                continue  # an IndexError there
            parts = []
            for rank in range(ranks):
                become(rank, ranks)
                with state.split_between_processes(list(range(length)), apply_padding=padding) as own:
                    parts.append(own)
            table[f"length {length} ranks {ranks}"] = parts
    become(0, 1)
    return table


def warning_of(system, release):
    records = []
    with mock.patch("platform.uname") as uname, mock.patch("accelerate.utils.other.logger.warning") as warning:
        uname.return_value.system = system
        uname.return_value.release = release
        warning.side_effect = lambda text, **_: records.append(text)
        check_os_kernel()
    return records[0] if records else None


def project(**fields):
    made = ProjectConfiguration(**fields)
    return [made.project_dir, made.logging_dir, made.iteration, made.total_limit]


def document():
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    texts = {"one": repr(accelerator.state), "gradient": repr(accelerator.gradient_state)}
    become(1, 2)
    PartialState._shared_state.update(backend="gloo", local_process_index=1)
    AcceleratorState._shared_state.update(PartialState._shared_state)
    texts["two"] = repr(AcceleratorState())
    PartialState._shared_state.update(backend=None, local_process_index=0)
    become(0, 1)
    result = {
        "shares": shares(padding=False),
        "padded": shares(padding=True),
        "texts": texts,
        "kernels": [[system, release, warning_of(system, release)] for system, release in KERNELS],
        "projects": {
            "none": project(),
            "directory": project(project_dir="run"),
            "both": project(project_dir="run", logging_dir="logs", total_limit=2, iteration=4),
        },
    }
    logging.disable(logging.NOTSET)
    return result
