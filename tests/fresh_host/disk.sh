#!/usr/bin/env bash
# Make the disk of the host in scripts/fresh_host.sh, with the kernel that it boots by: disk.sh HOST CACHE RUN
# HOST is a Debian, which is not changed; RUN gets disk, kernel and initrd. In a mount namespace of its own.
set -euo pipefail

clone=$(cd "$(dirname "$0")/../.." && pwd)
cache=$2
run=$3
root=$run/root

lay_over() { # HOST: what is written goes beside it
  mkdir -p "$run/upper" "$run/work" "$root"
  mount -t overlay -o "lowerdir=$1,upperdir=$run/upper,workdir=$run/work" fresh-host "$root"
}

own_ways() { # give it what this machine knows of mirrors, proxies and certificates
  local file
  rm -f "$root/etc/apt/sources.list" "$root/etc/resolv.conf"
  for file in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /usr/share/keyrings /etc/pip.conf /etc/npmrc \
    /etc/environment /etc/ssl/certs/ca-certificates.crt /root/.config/pip/pip.conf /root/.npmrc /etc/resolv.conf /etc/hosts; do
    [ ! -e "$file" ] || { mkdir -p "$root$(dirname "$file")" && cp -rL "$file" "$root$(dirname "$file")/"; }
  done
}

boxkeep() { # the clone, its programs as `make up` installs them, and its images, which are unpacked already
  local programs=$root/opt/boxkeep/main
  mkdir -p "$root/root/boxkeep" "$programs" "$root/var/cache/images" "$root/etc/boxkeep"
  git -C "$clone" ls-files -z --cached --others --exclude-standard | (cd "$clone" && tar -c --null -T -) | tar -x -C "$root/root/boxkeep"
  cp -r "$cache/images/." "$root/var/cache/images/"
  cp "$clone/tests/fresh_host/main.toml" "$root/etc/boxkeep/"
  install -D -m 0755 "$("$clone/scripts/runtime.sh" "$cache/bin")" "$programs/bin/runsc"
  there /root/boxkeep/scripts/venv.sh /opt/boxkeep/main/venv server.txt
  there env BOXKEEP_CONFIG=/etc/boxkeep/main.toml /opt/boxkeep/main/venv/bin/python /root/boxkeep/tests/fresh_host/pool.py
}

there() { # COMMAND…: run it in that Debian, by this machine's kernel
  chroot "$root" env HOME=/root PIP_NO_CACHE_DIR=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt "$@" >"$run/there.log" 2>&1 ||
    { cat "$run/there.log" >&2; exit 1; }
}

as_a_host() { # it has a name, gets its addresses from its network, resolves by systemd, and runs what is to be seen
  echo fresh >"$root/etc/hostname"
  printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 fresh\n' >"$root/etc/hosts"
  ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
  mkdir -p "$root/etc/systemd/network"
  printf '[Match]\nName=e*\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n' >"$root/etc/systemd/network/80-dhcp.network"
  cp "$clone/tests/fresh_host/fresh-host.service" "$root/etc/systemd/system/"
  # On for as long as it is to be seen, and beside networkd, which has the host's own links.
  there systemctl --quiet disable firewalld NetworkManager NetworkManager-dispatcher NetworkManager-wait-online
  printf '[keyfile]\nunmanaged-devices=interface-name:en*;interface-name:docker0\n' >"$root/etc/NetworkManager/conf.d/links.conf"
  there systemctl --quiet enable systemd-networkd systemd-resolved nftables ufw docker fresh-host
  # Nothing of Debian's own housekeeping beside it: on an emulated processor that takes minutes.
  there systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer
}

[ -e "$cache/images" ] || { echo "there are no images in $cache: tests build them there" >&2; exit 1; }
lay_over "$1"
mount --rbind /dev "$root/dev"
mount -t proc fresh-host "$root/proc"
own_ways
boxkeep
as_a_host
cp "$root"/boot/vmlinuz-* "$run/kernel"
cp "$root"/boot/initrd.img-* "$run/initrd"
umount --recursive --lazy "$root/dev" "$root/proc"
truncate -s 28G "$run/disk"
mke2fs -q -F -t ext4 -d "$root" "$run/disk"
umount "$root"
rm -rf "$run/upper" "$run/work"
