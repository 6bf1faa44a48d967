#!/usr/bin/env bash
# `make up` on a host that is not ours: a Debian with systemd, cgroup v2 alone, systemd-resolved, docker, ufw, firewalld,
# NetworkManager and IPv6 boots in a virtual machine, and tests/fresh_host/inside.sh says there what becomes of it, across a reboot: fresh_host.sh
# From the environment:
#   FRESH_RELEASE  the Debian of that host: bookworm, or trixie
#   FRESH_MINUTES  after which it is given up, 120
#   FRESH_KVM      if set, the machine runs by /dev/kvm, where that starts guests; else it is emulated
#
# All is of this machine's own mirrors, and what is the same for every run is kept in $TEST_CACHE/fresh-host. Boxkeep's
# programs and images are put there from here, as an emulated machine would take hours to build them. Emulated, a run takes
# some twenty minutes of one processor.
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
cache=${TEST_CACHE:-/var/cache/boxkeep}
release=${FRESH_RELEASE:-bookworm}
minutes=${FRESH_MINUTES:-120}
kept=$cache/fresh-host
emulator=$kept/qemu
host=$kept/host-$release
log=$kept/last-$release.log
packages=(btrfs-progs ca-certificates curl dbus docker.io firewalld git initramfs-tools iproute2 iptables kmod libnss-resolve
  linux-image-cloud-amd64 make mmdebstrap network-manager nftables procps python3 python3-venv runc systemd systemd-resolved systemd-sysv
  systemd-timesyncd udev ufw util-linux zstd)

debian() { # DIRECTORY RELEASE PACKAGE…: a Debian of this machine's own sources, made once for these packages
  local directory=$1 release=$2
  shift 2
  [ "$(cat "$directory.made" 2>/dev/null)" != "$*" ] || return 0
  echo "making $directory" >&2
  rm -rf "$directory"
  mmdebstrap --quiet --mode=root --variant=minbase --skip=check/empty --include="$(IFS=,; echo "$*")" "$release" "$directory"
  echo "$*" >"$directory.made"
}

own_mounts() { # COMMAND…: what it mounts goes with it
  unshare --mount --propagation private "$@"
}

mkdir -p "$kept"
debian "$emulator" bookworm qemu-system-x86 e2fsprogs
debian "$host" "$release" "${packages[@]}"
run=$(mktemp -d -p "$kept")
trap 'rm -rf "$run"' EXIT
own_mounts "$clone/tests/fresh_host/disk.sh" "$host" "$cache" "$run"
own_mounts timeout --signal=KILL "${minutes}m" nice -n 5 "$clone/tests/fresh_host/boot.sh" "$emulator" "$run" </dev/null |
  tee "$log" | sed -u -n 's/.*fresh-host: //p' || true
grep -q 'fresh-host: [0-9]*s all is well' "$log" || { echo "it did not go well; the console is in $log" >&2; exit 1; }
