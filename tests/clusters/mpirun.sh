#!/usr/bin/env bash
# The example started by mpirun of Open MPI and of MPICH, whichever are there (Debian: openmpi-bin, mpich).
#
#   mpirun.sh [PROGRAM]          both, with two jobs side by side and with a rank killed
#   mpirun.sh PROGRAM --quick    two ranks under the first one found
# shellcheck disable=SC2154  # runs.sh sets digits, folder, limit, root
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname "${BASH_SOURCE[0]}")/runs.sh"

# Open MPI asks whether root means it; elsewhere these say nothing.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
open_mpi='' mpich=''
for program in mpirun mpirun.openmpi mpiexec.hydra; do
  case "$("$program" --version 2>/dev/null)" in
    *"Open MPI"*) open_mpi="${open_mpi:-$program}" ;;
    *HYDRA*) mpich="${mpich:-$program}" ;;
  esac
done
[ -n "$open_mpi$mpich" ] || skip "there is no mpirun of Open MPI or MPICH"

# More ranks than cores have to be allowed, and each core be anyone's.
[ -z "$open_mpi" ] || open_mpi=("$open_mpi" --oversubscribe --bind-to none)
[ -z "$mpich" ] || mpich=("$mpich")

if [ "${2:-}" = --quick ]; then
  first=("${open_mpi[@]}")
  [ -n "${first[0]}" ] || first=("${mpich[@]}")
  trains 2 "${first[@]}" -n 2 "$digits"
  exit 0
fi

if [ -n "${open_mpi[0]}" ]; then
  "${open_mpi[0]}" --version | head -n 1
  trains 2 "${open_mpi[@]}" -n 2 "$digits"
  trains 4 "${open_mpi[@]}" -n 4 "$digits"
  echo "two jobs of this host at once"
  "${open_mpi[@]}" -n 2 "$digits" --out "$folder/other" </dev/null >"$folder/other.output" 2>&1 &
  other=$!
  trains 2 "${open_mpi[@]}" -n 2 "$digits"
  wait "$other" || { show "$folder/other.output"; fail "the other job failed"; }
  check_summary "$folder/other.output" 2
  loses OMPI_COMM_WORLD_RANK=1 "${open_mpi[@]}" -n 4 "$digits"
  loses OMPI_COMM_WORLD_RANK=0 "${open_mpi[@]}" -n 2 "$digits"
fi
if [ -n "${mpich[0]}" ]; then
  "${mpich[0]}" --version | sed -n 's/^ *Version: */MPICH /p'
  trains 2 "${mpich[@]}" -n 2 "$digits"
  trains 4 "${mpich[@]}" -n 4 "$digits"
  loses PMI_RANK=1 "${mpich[@]}" -n 4 "$digits"
  loses PMI_RANK=0 "${mpich[@]}" -n 2 "$digits"
fi
