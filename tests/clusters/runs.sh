# What the scripts of this folder share; they source it with the arguments they were given. Needs the built example:
# the first argument, or build/examples/digits.
# shellcheck shell=bash
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"
digits="$(realpath "${1:-$root/build/examples/digits}")"
limit=180  # seconds that a run may take before it counts as hanging

# CTest knows this status as "not run".
skip() {
  echo "skipped: $*"
  exit 77
}
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || skip "$program is not installed ($(basename "$0") says what it needs)"
  done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# What a script starts it hands to `at_exit`; the last thing registered is undone first.
undo=()
at_exit() { undo=("$*" "${undo[@]}"); }
clean_up() {
  local command
  for command in "${undo[@]}"; do eval "$command" || true; done
}
trap clean_up EXIT
folder="$(mktemp -d)"
at_exit "rm -rf '$folder'"

[ -x "$digits" ] || fail "got no program $digits, expected the built example. Type: cmake --build build --target examples/digits"
# Ranks share this machine's cores.
export OMP_NUM_THREADS=1

# mpirun gives each rank a terminal, on which the example draws a bar.
without_progress() { grep -av 'epoch' "$@" || true; }
show() { sed 's/^/  | /' "$@"; }

# Processes of the example that this script started and that are alive.
ranks_alive() {
  local process
  for process in $(pgrep -f -- "--out $folder/out" || true); do
    [ "$(readlink "/proc/$process/exe")" != "$digits" ] || echo "$process"
  done
}
# The one of them whose environment says $1, as in RANK=1.
rank_with() {
  local process
  for process in $(ranks_alive); do
    ! tr '\0' '\n' <"/proc/$process/environ" | grep -qx "$1" || echo "$process"
  done
}

# The digits' line of the file $1: printed once, by $2 processes that ended alike and accurate.
check_summary() {
  python3 - "$1" "$2" <<'END'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
if len(lines) != 1:
    sys.exit(f"got {len(lines)} lines of JSON, expected 1")
line = lines[0]
print("  " + json.dumps(line))
if line["processes"] != int(sys.argv[2]) or line["accuracy"] < 0.98 or line["ranks_equal"] is not True:
    sys.exit(f"expected {sys.argv[2]} processes, accuracy >= 0.98 and ranks_equal")
END
}

# trains RANKS WORD...: the words start the example, whose own arguments are added.
trains() {
  local ranks=$1
  shift
  echo "$*"
  local status=0
  timeout -k 10 "$limit" "$@" --out "$folder/out" </dev/null >"$folder/output" 2>"$folder/errors" || status=$?
  show "$folder/errors"
  if [ "$status" != 0 ]; then
    without_progress "$folder/output" | show
    fail "got exit code $status from $*, expected 0"
  fi
  check_summary "$folder/output" "$ranks" || fail "$*"
  [ -z "$(ranks_alive)" ] || fail "got processes left after $*, expected none"
}

# loses VARIABLE=RANK WORD...: the words start the example, one of whose ranks is killed while it trains. The launcher
# must end with a status that is not 0 and nothing may be left. Leaves what was printed in $folder/printed.
loses() {
  local victim=$1
  shift
  echo "$*  (the rank with $victim is killed)"
  : >"$folder/printed"
  timeout -k 10 "$limit" "$@" --epochs 100000 --out "$folder/out" </dev/null >"$folder/printed" 2>&1 &
  local launcher=$! status=0 killed=
  until grep -q 'held-out accuracy' "$folder/printed"; do
    kill -0 "$launcher" 2>/dev/null || { without_progress "$folder/printed" | show; fail "the ranks ended before one was killed"; }
    sleep 0.1
  done
  killed="$(rank_with "$victim")"
  [ -n "$killed" ] || fail "got no process with $victim, expected one"
  local start=$SECONDS
  kill -KILL "$killed"
  wait "$launcher" || status=$?
  without_progress "$folder/printed" | show
  echo "  exit code $status after $((SECONDS - start)) s"
  if [ "$status" = 0 ] || [ "$status" = 124 ]; then fail "got exit code $status, expected an error (124: it hung)"; fi
  [ $((SECONDS - start)) -le 40 ] || fail "it took more than 40 s to end"
  [ -z "$(ranks_alive)" ] || fail "got processes left, expected none"
}
# A survivor's line about the loss is in what was printed.
survivors_say() { grep -qE "$1" "$folder/printed" || fail "got nothing like '$1' from the survivors"; }
