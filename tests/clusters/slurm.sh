#!/usr/bin/env bash
# The example started by srun, in a Slurm of one node that this script sets up in a folder of its own and takes down
# again (Debian: slurm-wlm and munge; root).
#
#   slurm.sh [PROGRAM]
# shellcheck disable=SC2154  # runs.sh sets digits, folder, limit, root
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname "${BASH_SOURCE[0]}")/runs.sh"
PATH="$PATH:/usr/sbin:/sbin"
need slurmctld slurmd srun sbatch munged
[ "$(id -u)" = 0 ] || skip "slurmd wants root"

host="$(hostname -s)"
dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
chmod 400 "$folder/munge.key"
mkdir "$folder/state" "$folder/spool"
cat >"$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES
END
touch "$folder/cgroup.conf"
export SLURM_CONF="$folder/slurm.conf"

# In the foreground, so that their process ids are known.
serve() {
  "$@" >>"$folder/daemons" 2>&1 &
  at_exit "kill $! 2>/dev/null; wait $!"
}
serve munged --foreground --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
serve slurmctld -D -i
serve slurmd -D
for _ in $(seq 150); do
  state="$(timeout 5 sinfo --noheader --format=%T 2>/dev/null || true)"
  [ "$state" != idle ] || break
  sleep 0.2
done
[ "$state" = idle ] || { show "$folder/daemons"; fail "got a node that is '$state', expected idle"; }
srun --version

trains 2 srun -n 2 "$digits"
trains 4 srun -n 4 "$digits"
trains 2 srun --mpi=pmi2 -n 2 "$digits"

echo "sbatch, two steps at once"
cat >"$folder/job" <<END
#!/bin/bash
#SBATCH --ntasks=4 --cpus-per-task=1 --output=$folder/job.output
for step in one two; do
  srun -n 2 --exact "$digits" --out "$folder/out" --summary "$folder/\$step" &
done
wait
END
timeout "$limit" sbatch --wait "$folder/job" || { without_progress "$folder/job.output" | show; fail "the job failed"; }
check_summary "$folder/one" 2
check_summary "$folder/two" 2

# By itself srun lets the other tasks go on: they find out.
loses SLURM_PROCID=1 srun -n 4 "$digits"
survivors_say "Rank 1 .*rank [023] waiting"
loses SLURM_PROCID=0 srun -n 2 "$digits"
survivors_say "Rank 0 .*rank 1 waiting"
loses SLURM_PROCID=1 srun --kill-on-bad-exit -n 2 "$digits"
