#!/usr/bin/env bash
# `make up` on a host that is not ours: a Debian with systemd, cgroup v2 alone, systemd-resolved, docker, ufw and IPv6 boots
# in a virtual machine, and tests/fresh_host/inside.sh says there what becomes of it, across a reboot: fresh_host.sh
#
# Everything is of this machine's own mirrors and kept in $TEST_CACHE/fresh-host. Without KVM it has not been through yet: two
# emulated processors on a busy machine take half an hour to `make up`, whose six sandboxes at once then do not come up in
# time. FRESH_KVM=1 goes by /dev/kvm where that starts guests.
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
cache=${TEST_CACHE:-/var/cache/boxkeep}
kept=$cache/fresh-host
release=${FRESH_RELEASE:-bookworm}
minutes=${FRESH_MINUTES:-90}
packages=(btrfs-progs ca-certificates curl dbus docker.io git initramfs-tools iproute2 iptables kmod libnss-resolve
  linux-image-cloud-amd64 make mmdebstrap nftables procps python3 python3-venv runc systemd systemd-resolved systemd-sysv
  systemd-timesyncd udev ufw util-linux zstd)

debian() { # DIRECTORY RELEASE PACKAGE…: a Debian of this machine's own sources, made once
  local directory=$1 release=$2
  shift 2
  [ ! -e "$directory.made" ] || return 0
  rm -rf "$directory"
  mmdebstrap --quiet --mode=root --variant=minbase --skip=check/empty --include="$(IFS=,; echo "$*")" "$release" "$directory"
  touch "$directory.made"
}

own_ways() { # ROOT: give a host what this machine knows of mirrors, proxies and certificates
  local file
  rm -f "$1/etc/apt/sources.list"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /usr/share/keyrings /etc/pip.conf /etc/npmrc \
    /etc/environment /etc/ssl/certs/ca-certificates.crt /root/.config/pip/pip.conf /root/.npmrc; do
    [ ! -e "$file" ] || { mkdir -p "$1$(dirname "$file")" && cp -rL "$file" "$1$(dirname "$file")/"; }
  done
}

fill() { # ROOT: what a run needs of this clone
  own_ways "$1"
  mkdir -p "$1/root/boxkeep" "$1/var/cache/images" "$1/etc/systemd/network"
  git -C "$clone" ls-files -z | (cd "$clone" && tar -c --null -T -) | tar -x -C "$1/root/boxkeep"
  cp -r "$cache/images/." "$1/var/cache/images/"
  install -m 0755 "$("$clone/scripts/runtime.sh" "$cache/bin")" "$1/usr/local/bin/runsc"
  printf '[Match]\nName=e*\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n' >"$1/etc/systemd/network/80-dhcp.network"
  ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
  echo fresh >"$1/etc/hostname"
  cp "$clone/tests/fresh_host/fresh-host.service" "$1/etc/systemd/system/"
  ln -sf ../fresh-host.service "$1/etc/systemd/system/multi-user.target.wants/fresh-host.service"
  chroot "$1" systemctl --quiet enable systemd-networkd systemd-resolved ufw docker >/dev/null
}

mkdir -p "$kept"
debian "$kept/qemu" bookworm qemu-system-x86 e2fsprogs
debian "$kept/host" "$release" "${packages[@]}"
scratch=$(mktemp -d -p "$kept")
trap 'rm -rf "$scratch"' EXIT
cp -a "$kept/host" "$scratch/host"
fill "$scratch/host"
mkdir -p "$kept/qemu/run-$$"
run=$kept/qemu/run-$$
trap 'rm -rf "$scratch" "$run"' EXIT
truncate -s 28G "$run/disk"
mke2fs -q -F -t ext4 -d "$scratch/host" "$run/disk"
cp "$scratch"/host/boot/vmlinuz-* "$run/kernel"
cp "$scratch"/host/boot/initrd.img-* "$run/initrd"
rm -rf "$scratch"
cp -L /etc/resolv.conf "$kept/qemu/etc/resolv.conf"
accelerator=tcg,thread=multi
[ ! -w /dev/kvm ] || [ -z "${FRESH_KVM:-}" ] || accelerator=kvm
timeout --signal=KILL "${minutes}m" unshare --mount --propagation private bash -c 'mount --rbind /dev "$0/dev" && exec chroot "$@"' \
  "$kept/qemu" "$kept/qemu" qemu-system-x86_64 -accel "$accelerator" -machine q35 -cpu max -smp 2 -m 5G -nographic -no-user-config \
  -kernel "/run-$$/kernel" -initrd "/run-$$/initrd" -append "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=no" \
  -drive "file=/run-$$/disk,if=virtio,format=raw,cache=unsafe,discard=unmap" -nic user,model=virtio-net-pci </dev/null |
  tee "$kept/last.log" | sed -u -n 's/.*fresh-host: //p' || true
grep -q 'fresh-host: all is well' "$kept/last.log" || { echo "it did not go well; the console is in $kept/last.log" >&2; exit 1; }
