#!/usr/bin/env bash
# The example on two hosts: two sets of namespaces, each with a network, processes, shared memory and a host name of
# its own, joined by a veth pair (root). Nothing of them is left when the script ends.
#
#   two_hosts.sh [PROGRAM [LAUNCHER]]    LAUNCHER: accelerate-cpp, by default build/bin/accelerate-cpp
# shellcheck disable=SC2154  # runs.sh sets digits, folder, limit, root
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
. "$(dirname "${BASH_SOURCE[0]}")/runs.sh"
launcher="$(realpath "${2:-$root/build/bin/accelerate-cpp}")"
PATH="$PATH:/usr/sbin:/sbin"
need unshare nsenter ip
[ "$(id -u)" = 0 ] || skip "namespaces want root"
unshare --net --pid --ipc --uts --mount --fork true 2>/dev/null || skip "this system gives no namespaces"

names=(alpha beta)
addresses=(10.77.0.1 10.77.0.2)
printf '127.0.0.1 localhost\n10.77.0.1 alpha\n10.77.0.2 beta\n' >"$folder/hosts"
inits=()
for host in 0 1; do
  # Whoever kills its first process kills the host.
  unshare --net --pid --ipc --uts --mount --fork --kill-child --mount-proc bash -c "
    hostname ${names[host]} && mount -t tmpfs tmpfs /dev/shm && mount --bind '$folder/hosts' /etc/hosts &&
    ip link set lo up && touch '$folder/${names[host]}.up' && exec sleep infinity" &
  at_exit "kill -KILL $! 2>/dev/null; wait $! 2>/dev/null"
  parent=$!
  until [ -e "$folder/${names[host]}.up" ]; do kill -0 "$parent" || fail "host ${names[host]} did not start"; sleep 0.05; done
  inits[host]="$(pgrep -P "$parent")"
done
ip link add name "veth$$" netns "${inits[0]}" type veth peer name "veth$$" netns "${inits[1]}"
on() {  # HOST WORD...
  local host=$1
  shift
  nsenter --target "${inits[host]}" --net --pid --ipc --uts --mount "$@"
}
for host in 0 1; do
  on $host ip link set "veth$$" name eth0
  on $host ip address add "${addresses[host]}/24" dev eth0
  on $host ip link set eth0 up
done
sent() { on 0 cat /sys/class/net/eth0/statistics/tx_bytes; }
# sysfs shows the network of whoever mounted it.
for host in 0 1; do on $host mount -t sysfs sysfs /sys; done

# both RANKS WORD...: the words, in which HOST is 0 or 1, on both hosts at once. Each prints the line.
both() {
  local ranks=$1 host status=0 pids=()
  shift
  echo "${*//$folder/}"
  for host in 0 1; do
    on $host timeout -k 10 "$limit" "${@//HOST/$host}" --out "$folder/out" </dev/null >"$folder/output.$host" 2>"$folder/errors.$host" &
    pids+=($!)
  done
  for host in 0 1; do wait "${pids[host]}" || status=$?; done
  for host in 0 1; do show "$folder/errors.$host"; done
  [ "$status" = 0 ] || fail "got exit code $status, expected 0"
  for host in 0 1; do check_summary "$folder/output.$host" "$ranks"; done
}

by_hand=(env WORLD_SIZE=2 RANK=HOST LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=alpha MASTER_PORT=29500)
launch=("$launcher" launch --num-machines 2 --machine-rank HOST --main-process-ip 10.77.0.1 --main-process-port 29500)

before="$(sent)"
both 2 "${by_hand[@]}" "$digits"
sent=$(($(sent) - before))
echo "  $sent bytes from alpha to beta"
# Gradients of 9,930 parameters and 675 steps: what has gone over the wire was not in shared memory.
[ "$sent" -gt 20000000 ] || fail "got $sent bytes on the wire, expected the gradients there"
both 4 "${launch[@]}" --num-processes 4 "$digits"

echo "host names that lead to the host itself, as Debian's installer writes them"
for host in 0 1; do
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n%s %s\n' "${names[host]}" "${addresses[1 - host]}" "${names[1 - host]}" \
    >"$folder/hosts.$host"
  on $host mount --bind "$folder/hosts.$host" /etc/hosts
done
both 2 "${by_hand[@]}" "$digits"
both 4 "${launch[@]}" --num-processes 4 "$digits"
both 2 "${by_hand[@]}" GLOO_SOCKET_IFNAME=eth0 "$digits"

echo "an interface that leads nowhere"
start=$SECONDS
pids=()
for host in 0 1; do
  on $host timeout -k 10 "$limit" "${by_hand[@]//HOST/$host}" GLOO_SOCKET_IFNAME=lo "$digits" --out "$folder/out" \
    </dev/null >"$folder/errors.$host" 2>&1 &
  pids+=($!)
done
for host in 0 1; do
  status=0
  wait "${pids[host]}" || status=$?
  grep '^digits:' "$folder/errors.$host" | show
  echo "  rank $host ended with exit code $status after $((SECONDS - start)) s"
  [ "$status" = 1 ] || { show "$folder/errors.$host"; fail "got exit code $status, expected 1"; }
  grep -q 'Set GLOO_SOCKET_IFNAME' "$folder/errors.$host" || { show "$folder/errors.$host"; fail "got no remedy"; }
done
[ $((SECONDS - start)) -le 30 ] || fail "it took more than 30 s"
for host in 0 1; do on $host umount /etc/hosts; done

# ends_after WHAT COMMAND...: the command does something to rank 1 while it trains; rank 0 has to end.
ends_after() {
  local what=$1 status=0 pids=() host start
  shift
  echo "$what"
  for host in 0 1; do
    : >"$folder/output.$host"
    on $host timeout -k 10 "$limit" "${by_hand[@]//HOST/$host}" "$digits" --epochs 100000 --out "$folder/out" \
      </dev/null >"$folder/output.$host" 2>"$folder/errors.$host" &
    pids+=($!)
  done
  until grep -q 'held-out accuracy' "$folder/output.0"; do
    kill -0 "${pids[0]}" 2>/dev/null || { show "$folder"/errors.?; fail "the ranks ended before anything happened"; }
    sleep 0.1
  done
  start=$SECONDS
  "$@"
  wait "${pids[0]}" || status=$?
  show "$folder/errors.0"
  echo "  rank 0 ended with exit code $status after $((SECONDS - start)) s"
  [ "$status" = 1 ] || fail "got exit code $status from rank 0, expected 1"
  [ $((SECONDS - start)) -le 30 ] || fail "it took more than 30 s"
  grep -q 'Rank 1' "$folder/errors.0" || fail "got no line that names rank 1"
  status=0
  wait "${pids[1]}" 2>/dev/null || status=$?
  show "$folder/errors.1"
  echo "  rank 1 ended with exit code $status after $((SECONDS - start)) s"
}
kill_rank() { kill -KILL "$(rank_with RANK=1)"; }
unplug() { on 1 ip link set eth0 down; }
ends_after "rank 1 is killed" kill_rank
ends_after "the network cable of rank 1's host is pulled" unplug
