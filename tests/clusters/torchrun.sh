#!/usr/bin/env bash
# The example started by PyTorch's torchrun: the one in PATH, or the one that TORCHRUN names.
#
#   TORCHRUN=.../bin/torchrun torchrun.sh [PROGRAM]
# shellcheck disable=SC2154  # runs.sh sets digits, folder, limit, root
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname "${BASH_SOURCE[0]}")/runs.sh"
torchrun="${TORCHRUN:-torchrun}"
need "$torchrun"
"$(dirname "$(command -v "$torchrun")")/python" -c 'import torch; print("torch", torch.__version__)'

# The agent serves the store where the ranks meet; for `c10d` and `standalone` at a port of its own choice.
static=(--nproc-per-node 2 --master-port "$(free_port)" --no-python)
trains 2 "$torchrun" "${static[@]}" "$digits"
trains 4 "$torchrun" --standalone --nproc-per-node 4 --no-python "$digits"
trains 2 "$torchrun" --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint "localhost:$(free_port)" --no-python "$digits"
# Rank 0 serves it, as when torchrun was told so or a program is started without it.
TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 trains 2 "$torchrun" --standalone --nproc-per-node 2 --no-python "$digits"

echo "two agents, as of two hosts"
endpoint="localhost:$(free_port)"
"$torchrun" --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id pair --no-python \
  "$digits" --out "$folder/out" </dev/null >"$folder/other.output" 2>&1 &
other=$!
timeout "$limit" "$torchrun" --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id pair \
  --no-python "$digits" --out "$folder/out" </dev/null >"$folder/one.output" 2>&1 || { show "$folder/one.output"; fail "the first agent"; }
wait "$other" || { show "$folder/other.output"; fail "the second agent"; }
# Each host prints.
check_summary "$folder/one.output" 2
check_summary "$folder/other.output" 2

loses RANK=1 "$torchrun" "${static[@]}" "$digits"
loses RANK=0 "$torchrun" "${static[@]}" "$digits"

for rendezvous in "--master-port $(free_port)" --standalone; do
  # shellcheck disable=SC2206
  restarting=("$torchrun" $rendezvous --nproc-per-node 2 --max-restarts 1 --no-python "$digits")
  echo "${restarting[*]}  (rank 1 is killed and all are started again)"
  : >"$folder/printed"
  timeout "$limit" "${restarting[@]}" --out "$folder/out" </dev/null >"$folder/printed" 2>"$folder/errors" &
  launcher=$!
  until grep -q 'held-out accuracy' "$folder/printed"; do
    kill -0 "$launcher" 2>/dev/null || { show "$folder/errors"; fail "the ranks ended before one was killed"; }
    sleep 0.1
  done
  kill -KILL "$(rank_with RANK=1)"
  wait "$launcher" || { show "$folder/errors"; fail "got exit code $?, expected 0 from the second attempt"; }
  show "$folder/errors"
  [ "$(grep -c '^epoch  1/' "$folder/printed")" = 2 ] || fail "got no second first epoch"
  check_summary "$folder/printed" 2
done
