#!/usr/bin/env bash
# Runs in the virtual machine of scripts/fresh_host.sh, once before and once after a reboot. Lines with `fresh-host:` are shown.
set -euo pipefail

cd /root/boxkeep
state=/root/fresh
units=(boxkeep-node-main boxkeep-serve-main)
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf 'fresh-host: %s %s\n' "$(cut -d. -f1 /proc/uptime)s" "$*"; }

off() { # WORD…: the last
  trap - EXIT
  say "$*"
  sync
  systemctl poweroff --force
}

failed() { # CODE LINE
  journalctl -u "boxkeep*" -n 60 -o cat --no-pager
  off "FAILED with $1 at line $2"
}

job() { # STEP WORD…: what it is to show, said once it has
  /usr/bin/python3 tests/fresh_host/job.py "$1"
  say "${*:2}"
}

left() { # what a host that Boxkeep has left shows of it
  ip -o link | grep -E 'umain|bmain' || true
  nft list ruleset | grep -E 'boxkeep|umain' || true
  iptables-save | grep umain || true
  grep boxkeep /proc/mounts || true
  losetup --noheadings | grep boxkeep || true
  find /sys/fs/cgroup -maxdepth 2 -name 'boxkeep*' -not -name '*.service'
}

stays() { # what is installed that a purge takes away
  ls -d /etc/boxkeep /var/lib/boxkeep /opt/boxkeep /etc/systemd/system/boxkeep* 2>/dev/null || true
}

firewalls() { # such as people have
  ufw default deny routed >/dev/null
  ufw --force enable >/dev/null
  say "docker is $(systemctl is-active docker), $(ufw status | head -n 1), $(iptables -S FORWARD | head -n 1)"
}

other_ways() { # of filtering packets and of having links
  systemctl start NetworkManager
  ufw disable >/dev/null
  systemctl start firewalld
  job goes-out "sandboxes have egress under firewalld"
  firewall-cmd --quiet --reload
  systemctl restart firewalld docker
  job goes-out "and have it after firewalld was reloaded, and it and docker restarted"
  job delete "new links are left alone by NetworkManager: $(nmcli -g DEVICE,STATE device | tr '\n' ' ')"
  systemctl stop NetworkManager firewalld
  ufw --force enable >/dev/null
  job goes-out "and have it again under ufw"
}

full_disk() {
  fallocate -l $(($(df --output=avail -B 1 / | tail -n 1) - (20 << 20))) /var/filled
  job full "while the host's disk is full what runs goes on, and what cannot be done is told"
  rm /var/filled
  job delete "and sandboxes are made again once it is not"
}

before() {
  say "$(. /etc/os-release && echo "$PRETTY_NAME"), kernel $(uname -r), $(systemctl --version | head -n 1)"
  say "cgroups $(stat -fc %T /sys/fs/cgroup), resolv.conf $(readlink /etc/resolv.conf), $(runc --version | head -n 1)"
  firewalls
  make up
  say "make up is through"
  systemctl is-enabled "${units[@]}"
  job begin "the main job is done under both isolations"
  job limits "limits of memory, processors and processes hold"
  job checkpoint "checkpoints are taken of what runs"
  job delete "nothing is left of what is deleted"
  job goes-out "sandboxes have egress"
  systemctl restart nftables docker
  ufw reload >/dev/null
  job goes-out "and have it after nftables, docker and ufw were restarted"
  other_ways
  full_disk
  make restart
  systemctl daemon-reload
  systemctl daemon-reexec
  job goes-on "sandboxes went on through make restart, and through systemd's own reload and re-execution"
  job pause "one is paused, others run, and one waits for room"
  boxkeep doctor --leaks
  say "nothing leaks"
  reboot_once
}

reboot_once() {
  touch "$state/rebooted"
  date +%s >"$state/down-at"
  say "rebooting"
  trap - EXIT
  systemctl reboot
  sleep infinity
}

after() {
  say "up again $(($(date +%s) - $(cat "$state/down-at"))) s after it was told to go down"
  job after-reboot "what ran is failed and says why, what waited has its room, what was paused goes on with its memory"
  job goes-out "sandboxes have egress"
  boxkeep doctor --leaks
  say "nothing leaks"
  make down
  [ -z "$(left)" ] || { left; exit 1; }
  ! systemctl is-enabled "${units[@]}" || exit 1
  say "down: nothing is left, and nothing starts at boot"
  make purge
  [ -z "$(stays)" ] || { stays; exit 1; }
  say "purged"
  off "all is well"
}

mkdir -p "$state"
trap 'failed $? $LINENO' EXIT
if [ -e "$state/rebooted" ]; then after; else before; fi
