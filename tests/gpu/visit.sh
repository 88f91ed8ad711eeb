#!/usr/bin/env bash
# The GPU tests on a machine that has GPUs and a Python with LibTorch, and neither the compiler nor the libraries this
# was built with.
#
#   tests/gpu/visit.sh pack <build folder> <folder>     copies the programs of a build with CUDA there, stripped
#   tests/gpu/visit.sh run <folder> [python]            runs them: the python's torch brings all libraries
#
# `run` prints what each step said, ends with one line a step, and fails if a step did. Logs go to $OUT, if it is set.
# Programs read test data where this repository was when they were built; make a link if it was elsewhere.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail

programs=(tests/gpu_tests examples/digits benchmarks/train bin/accelerate-cpp)

pack() {
  local build=$1 folder=$2 program
  mkdir -p "$folder"
  for program in "${programs[@]}"; do
    [ -e "$build/$program" ] || continue
    strip -o "$folder/${program##*/}" "$build/$program"
  done
  git -C "${0%/*}" rev-parse --short HEAD >"$folder/commit" 2>/dev/null || true
  if command -v gcc >/dev/null; then gcc -O1 -shared -fPIC -o "$folder/stacks.so" "${0%/*}/stacks.c"; fi
  du -sh "$folder"
}

# step <name> <seconds> <command...>: goes on after a failure.
step() {
  local name=$1 limit=$2 status=0 start=$SECONDS
  shift 2
  echo "=== $name: $*"
  timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1 || status=$?
  tail -n 100 "$logs/$name.log"
  summary+=("$([ $status = 0 ] && echo ok || echo "FAILED ($status)") $name, $((SECONDS - start)) s")
  [ $status = 0 ] || failed=1
}

# lost <digits> <rank> <signal> [flags of digits]: two ranks without a launcher; one gets the signal in the middle of training, the other
# has to end within 30 s, and say which rank was lost. One that has not after 40 s says where its threads are.
lost() {
  local digits=$1 victim=$2 signal=$3 rank status=0 since port=$((20000 + RANDOM % 10000))
  local ranks=() other=$((1 - victim)) stacks=${digits%/*}/stacks.so work
  work=$(mktemp -d)
  for rank in 0 1; do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
      LD_PRELOAD=$([ -e "$stacks" ] && echo "$stacks") "$digits" --epochs 100000 --out "$work/out" "${@:4}" >"$work/$rank" 2>&1 &
    ranks+=($!)
  done
  until grep -q 'epoch  *2/' "$work/0"; do sleep 0.2; done
  kill "-$signal" "${ranks[$victim]}"
  since=$SECONDS
  while [ $((SECONDS - since)) -lt 40 ] && kill -0 "${ranks[$other]}" 2>/dev/null; do sleep 0.5; done
  if kill -0 "${ranks[$other]}" 2>/dev/null; then
    if [ -e "$stacks" ]; then
      kill -USR1 "${ranks[$other]}"
      sleep 5
    fi
    kill -KILL "${ranks[$other]}"
  fi
  wait "${ranks[$other]}" || status=$?
  echo "rank $other ended with $status after $((SECONDS - since)) s:"
  grep -v '^epoch' "$work/$other" || true
  kill -KILL "${ranks[@]}" 2>/dev/null || true
  if [ "$status" = 0 ] || [ $((SECONDS - since)) -gt 30 ] || ! grep -qi "rank $victim" "$work/$other"; then
    return 1
  fi
}

# The same task through the Python original, where it is installed.
peer() {
  local python=$1 gpus=$2 program=${0%/*}/../../benchmarks/peer/train.py
  if ! "$python" -c 'import accelerate' 2>/dev/null; then
    summary+=("left out: the peer, since that Python has no accelerate")
    return
  fi
  local mlp=("$program" --task mlp --batch-size 64 --steps 1200 --warmup 200)
  step mlp-peer 90 "$python" "${mlp[@]}"
  if [ "$gpus" -gt 1 ]; then
    step mlp-of-2-peer 90 "$python" -m torch.distributed.run --standalone --nproc-per-node 2 "${mlp[@]}"
  fi
}

run() {
  local folder python=${2:-python3} gpus
  folder=$(cd "$1" && pwd)
  logs=${OUT:-$(mktemp -d)} summary=() failed=0
  LD_LIBRARY_PATH=$("$python" -c 'import glob, os, torch
site = os.path.dirname(os.path.dirname(torch.__file__))
print(":".join([site + "/torch/lib"] + sorted(glob.glob(site + "/nvidia/*/lib"))))')${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH OMP_NUM_THREADS=4
  nvidia-smi -L
  gpus=$(nvidia-smi -L | wc -l)
  local with=(env) stacks="$folder/stacks.so" round
  if [ -e "$stacks" ]; then with+=("LD_PRELOAD=$stacks"); fi
  if [ "$gpus" -gt 1 ]; then
    step tests 420 "${with[@]}" "$folder/gpu_tests" --gtest_brief=1
  else
    step tests 300 "${with[@]}" "$folder/gpu_tests" --gtest_brief=1
  fi
  local sanitizer
  if sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null); then
    # Tests with few numbers: each access of a kernel is looked at.
    local every='CrossEntropyOnGpu.HugeLogits*:CrossEntropyOnGpu.OfNoRows*:CrossEntropyOnGpu.Infinities*:Kinds/FusedOnGpu*:EmaFollowOnGpu.AveragesBeside*'
    step sanitizer 200 "$sanitizer" --error-exitcode 9 "$folder/gpu_tests" \
      --gtest_filter="$every:EmaOnGpu.TheDeviceKnows*:EmaOnGpu.TheCount*:StepCapture.ThePagesLoop*:StepCapture.DropoutDraws*"
  else
    summary+=("left out: compute-sanitizer, which this machine does not have")
  fi
  step digits 60 "$folder/digits" --out "$logs/digits"
  step digits-captured 60 "$folder/digits" --out "$logs/digits" --cuda-graph
  step digits-bf16 60 "$folder/digits" --out "$logs/digits" --mixed-precision bf16
  step digits-cpu 60 env ACCELERATE_USE_CPU=1 "$folder/digits" --out "$logs/digits"
  if [ -e "$folder/accelerate-cpp" ] && [ "$gpus" -gt 1 ]; then
    step digits-2 90 "$folder/accelerate-cpp" launch --num-processes 2 "$folder/digits" --out "$logs/digits"
    step too-many 60 bash -c "! '$folder/accelerate-cpp' launch --num-processes $((gpus + 1)) '$folder/digits' --out '$logs/digits'"
  fi
  if [ "$gpus" -gt 1 ]; then
    for signal in KILL STOP; do
      for victim in 0 1; do
        step "lost-$victim-$signal" 90 bash "$0" lost "$folder/digits" "$victim" "$signal"
        step "lost-$victim-$signal-captured" 90 bash "$0" lost "$folder/digits" "$victim" "$signal" --cuda-graph
      done
    done
  fi
  if [ -e "$folder/train" ]; then
    local mlp=("$folder/train" --task mlp --batch-size 64 --steps 1200 --warmup 200)
    step tasks 150 env TRAIN="$folder/train" "$python" -m unittest -v "${0%/*}/../benchmarks/gpu_test.py"
    # Twice: two runs of one program differ as well.
    for round in 1 2; do
      step "mlp-$round" 60 "${mlp[@]}"
      step "mlp-plain-$round" 60 "${mlp[@]}" --plain
      if [ -e "$folder/accelerate-cpp" ] && [ "$gpus" -gt 1 ]; then
        step "mlp-of-2-$round" 60 "$folder/accelerate-cpp" launch --num-processes 2 "${mlp[@]}"
        step "mlp-of-2-plain-$round" 60 "$folder/accelerate-cpp" launch --num-processes 2 "${mlp[@]}" --plain
      fi
    done
    peer "$python" "$gpus"
  fi
  rm -rf "$logs/digits"
  printf '%s\n' "--- summary" "${summary[@]}"
  return $failed
}

case "${1:-}" in
  pack) pack "${@:2}" ;;
  run) run "${@:2}" ;;
  lost) lost "${@:2}" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
