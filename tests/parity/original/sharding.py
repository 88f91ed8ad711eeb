"""Which samples each rank gets, straight from the prepared loaders of the original. No processes are needed."""

from accelerate.data_loader import prepare_data_loader
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import DataLoader

RANKS = range(1, 10)
BATCH_SIZES = (1, 2, 3, 4, 8)
SPLIT_BATCH_SIZES = (2, 6, 8)
SAMPLES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 21, 23, 24, 37, 48)


def runs(batch):
    """[3, 4, 5, 0, 1] as "3-5,0-1"."""
    parts = []
    for index in batch:
        if parts and parts[-1][1] + 1 == index:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def cases():
    for ranks in RANKS:
        for samples in SAMPLES:
            for split, sizes in ((False, BATCH_SIZES), (True, SPLIT_BATCH_SIZES)):
                for size in sizes:
                    if split and size % ranks != 0:
                        continue
                    yield {"ranks": ranks, "samples": samples, "batch_size": size, "split": split}


def modes(case):
    for drop_last in (False, True):
        for even in (True, False):
            # Without a tail to fill, `even_batches` has nothing to say: a few cases are enough.
            if drop_last and not even and case["ranks"] > 3:
                continue
            yield drop_last, even


def key(case, drop_last, even):
    words = [f"samples {case['samples']} batch {case['batch_size']} ranks {case['ranks']}"]
    return " ".join(words + ["split"] * case["split"] + ["drop_last"] * drop_last + ["ragged"] * (not even))


def tables(case, drop_last, even):
    """One text: batches of a rank separated by spaces, ranks by "|"; then lengths and the remainder."""
    ranks, lengths, remainders, totals = [], [], set(), set()
    for rank in range(case["ranks"]):
        loader = prepare_data_loader(
            DataLoader(
                range(case["samples"]),
                batch_size=case["batch_size"],
                drop_last=drop_last,
                collate_fn=lambda batch: list(batch),
            ),
            num_processes=case["ranks"],
            process_index=rank,
            split_batches=case["split"],
            even_batches=even,
        )
        lengths.append(len(loader))
        totals.add(loader.total_batch_size)
        ends, batches = [], []
        for batch in loader:
            batches.append(runs(batch))
            ends.append(loader.end_of_dataloader)
            remainders.add(loader.remainder)
        if ends and ends != [False] * (len(ends) - 1) + [True]:
            raise ValueError(f"{case}: the end is not said once, with the last batch")
        ranks.append(" ".join(batches))
    if len(remainders) > 1 or len(totals) != 1:
        raise ValueError(f"{case}: the ranks disagree: remainders {remainders}, total batch sizes {totals}")
    return ["|".join(ranks), lengths, remainders.pop() if remainders else None, totals.pop()]


def document():
    """Each table: [indices, len() by rank, remainder (null: no batch anywhere), total_batch_size]."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState(cpu=True)
    return {
        "tables": {
            key(case, drop_last, even): tables(case, drop_last, even)
            for case in cases()
            for drop_last, even in modes(case)
        }
    }
