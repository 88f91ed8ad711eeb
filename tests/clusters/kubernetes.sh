#!/usr/bin/env bash
# The example with the variables that Kubernetes gives to a pod's process, one process a pod: by PyTorchJob's operator,
# whose first pod is the master, and by the Indexed Job of docs/launch.md. No cluster: the pods are this machine's
# processes, and the master's name is localhost.
#
#   kubernetes.sh [PROGRAM]
# shellcheck disable=SC2154  # runs.sh sets digits, folder, limit, root
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname "${BASH_SOURCE[0]}")/runs.sh"

# pods NAME WORD...: the words, in which RANK is a pod's number, as two pods; each prints, being first of its host.
pods() {
  local name=$1 rank pids=()
  shift
  echo "$name: ${*}"
  for rank in 0 1; do
    timeout -k 10 "$limit" env "${@//INDEX/$rank}" "$digits" --out "$folder/out" </dev/null >"$folder/output.$rank" 2>&1 &
    pids+=($!)
  done
  for rank in 0 1; do
    wait "${pids[rank]}" || { show "$folder/output.$rank"; fail "got exit code $? from pod $rank, expected 0"; }
    check_summary "$folder/output.$rank" 2
  done
}

port="$(free_port)"
pods "PyTorchJob" PYTHONUNBUFFERED=0 MASTER_ADDR=localhost MASTER_PORT="$port" WORLD_SIZE=2 RANK=INDEX \
  PET_MASTER_ADDR=localhost PET_MASTER_PORT="$port" PET_NNODES=2 PET_NODE_RANK=INDEX PET_NPROC_PER_NODE=auto
pods "Indexed Job" JOB_COMPLETION_INDEX=INDEX RANK=INDEX WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 \
  MASTER_ADDR=localhost MASTER_PORT="$(free_port)"
