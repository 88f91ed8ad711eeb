"""What gather_for_metrics keeps of every batch when there is one process."""

import torch
from torch.utils.data import DataLoader, TensorDataset

from .traces import fresh_accelerator

CASES = [
    {"samples": 12, "batch_size": 4, "drop_last": False},
    {"samples": 10, "batch_size": 4, "drop_last": False},
    {"samples": 9, "batch_size": 4, "drop_last": False},
    {"samples": 10, "batch_size": 4, "drop_last": True},
    {"samples": 3, "batch_size": 8, "drop_last": False},
    {"samples": 5, "batch_size": 1, "drop_last": False},
]
CONFIGURATION = {
    "mixed_precision": "no",
    "gradient_accumulation_steps": 1,
    "sync_with_dataloader": True,
    "step_scheduler_with_optimizer": True,
}


def document():
    """Per batch: the ids that come back, also nested, and the rows kept of six rows that are not per sample."""
    cases = []
    for case in CASES:
        accelerator = fresh_accelerator(CONFIGURATION)
        ids = torch.arange(case["samples"])
        loader = accelerator.prepare(
            DataLoader(TensorDataset(ids), batch_size=case["batch_size"], drop_last=case["drop_last"])
        )
        batches = []
        for (x,) in loader:
            kept = accelerator.gather_for_metrics(x)
            nested = accelerator.gather_for_metrics({"ids": x, "pair": (x * 2, [x * 3])})
            other = accelerator.gather_for_metrics(torch.arange(6))
            scalar = accelerator.gather_for_metrics(torch.tensor(2.5))
            batches.append(
                {
                    "ids": kept.tolist(),
                    "nested_ids": nested["ids"].tolist(),
                    "nested_doubled": nested["pair"][0].tolist(),
                    "nested_tripled": nested["pair"][1][0].tolist(),
                    "six_rows": other.tolist(),
                    "scalar": scalar.item(),
                }
            )
        outside = accelerator.gather_for_metrics(torch.arange(6)).tolist()
        cases.append({**case, "batches": batches, "six_rows_after_the_loop": outside})
    return {"cases": cases}


SEVERAL_CASES = [
    {"samples": 9, "batch_size": 5, "drop_last": False},
    {"samples": 22, "batch_size": 4, "drop_last": False},
    {"samples": 16, "batch_size": 2, "drop_last": False},
    {"samples": 21, "batch_size": 2, "drop_last": True},
    {"samples": 3, "batch_size": 1, "drop_last": False},
    {"samples": 1, "batch_size": 3, "drop_last": False},
    {"samples": 21, "batch_size": 8, "drop_last": False, "dataloader_config": {"split_batches": True}},
]


def several_document(size):
    """The same in several processes: what every rank gets back is the same."""
    cases = []
    for case in SEVERAL_CASES:
        accelerator = fresh_accelerator({**CONFIGURATION, **case})
        ids = torch.arange(case["samples"])
        loader = accelerator.prepare(
            DataLoader(TensorDataset(ids), batch_size=case["batch_size"], drop_last=case["drop_last"])
        )
        batches = [
            {
                "own": x.tolist(),
                "ids": accelerator.gather_for_metrics(x).tolist(),
                "one_a_rank": accelerator.gather_for_metrics(torch.tensor(accelerator.process_index)).tolist(),
                "texts": accelerator.gather_for_metrics([str(value) for value in x.tolist()], use_gather_object=True),
            }
            for (x,) in loader
        ]
        cases.append({**case, "length": len(loader), "batches": batches})
    return {"cases": cases}
