"""Runs the original in several processes: gloo on one host, one process a rank, all cases one after the other."""

import os
import pickle
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from . import collectives, gather, hooks, learning_rates, several_configurations, traces


def _of_rank(rank, size, problem):
    """What this rank records, by file name."""
    documents = {}
    for configuration in several_configurations.configurations(size):
        documents[f"traces-{size}/{configuration['name']}.json"] = traces.trace(configuration, problem)
    documents[f"gather_for_metrics-{size}.json"] = gather.several_document(size)
    documents[f"collectives-{size}.json"] = collectives.document(rank, size)
    if size == 2:
        documents["learning_rates-2.json"] = learning_rates.document(size)
    documents[f"local_sgd-{size}.json"] = hooks.local_sgd_document(rank)
    if size == 2:  # sums of more halves depend on the order of addition
        documents[f"comm_hooks-{size}.json"] = hooks.hooks_document(rank)
    return documents


def _work(rank, size, folder, problem):
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    try:
        result = _of_rank(rank, size, problem)
    except Exception:
        result = traceback.format_exc()
    (Path(folder) / f"rank{rank}").write_bytes(pickle.dumps(result))
    if isinstance(result, str):
        os._exit(1)  # the others may wait for this rank: the parent ends them
    dist.barrier()
    os._exit(0)  # gloo's threads may abort an ordinary exit


# Running statistics are those of rank 0 when a forward begins, then each rank's own.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _split_state(document):
    """The models' parameters and their buffers."""
    parameters, buffers = {}, {}
    for role, state in document["final_state"].items():
        parameters[role] = {key: value for key, value in state.items() if not key.endswith(_BUFFERS)}
        buffers[role] = {key: value for key, value in state.items() if key.endswith(_BUFFERS)}
    return parameters, buffers


def _merged(name, ranks):
    first = dict(ranks[0])
    if name.startswith("learning_rates"):
        if any(other != first for other in ranks):
            raise ValueError(f"{name}: the ranks recorded other rates")
        return first
    if "configuration" not in first:
        return {"ranks": ranks}
    states = [_split_state(other) for other in ranks]
    for rank, other in enumerate(ranks):
        for key in set(first) - {"losses", "final_state"}:
            if str(other[key]) != str(first[key]):
                raise ValueError(f"{name}: rank {rank} recorded another {key} than rank 0")
        if states[rank][0] != states[0][0]:
            raise ValueError(f"{name}: rank {rank} ended with other parameters than rank 0")
    first["losses"] = {role: [other["losses"][role] for other in ranks] for role in first["losses"]}
    first["final_state"] = states[0][0]
    if any(states[0][1].values()):
        first["final_buffers"] = [buffers for _, buffers in states]
    return first


def documents(size, problem):
    """Every fixture of that many processes as {relative path: document}."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, args=(size, folder, problem), nprocs=size, join=False).join(timeout=None)
        ranks = []
        for rank in range(size):
            result = pickle.loads((Path(folder) / f"rank{rank}").read_bytes())
            if isinstance(result, str):
                raise RuntimeError(f"rank {rank}: {result}")
            ranks.append(result)
    return {name: _merged(name, [rank[name] for rank in ranks]) for name in ranks[0]}
