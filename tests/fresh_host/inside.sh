#!/usr/bin/env bash
# Runs in the virtual machine of scripts/fresh_host.sh, once before and once after a reboot. Lines with `fresh-host:` are shown.
set -euo pipefail

cd /root/boxkeep
state=/root/fresh
mkdir -p "$state"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt
say() { printf 'fresh-host: %s %s\n' "$(cut -d. -f1 /proc/uptime)s" "$*"; }
off() { say "$*"; sync; systemctl poweroff --force; }
trap 'code=$?; [ $code = 0 ] || { journalctl -u "boxkeep*" -n 60 -o cat --no-pager; off "FAILED with $code at line $LINENO"; }' EXIT
job() { /usr/bin/python3 tests/fresh_host/job.py "$@"; }

left() { # what a host that Boxkeep has left shows of it
  ip -o link | grep -E 'umain|bmain' || true
  nft list tables | grep boxkeep || true
  grep boxkeep /proc/mounts || true
  losetup --noheadings | grep boxkeep || true
  find /sys/fs/cgroup -maxdepth 2 -name 'boxkeep*' -not -name '*.service'
  iptables-save | grep umain || true
  nft list ruleset | grep umain || true
}

before() {
  say "kernel $(uname -r), systemd $(systemctl --version | head -n 1), cgroups $(stat -fc %T /sys/fs/cgroup), resolv.conf $(readlink /etc/resolv.conf)"
  ufw default deny routed >/dev/null && ufw --force enable >/dev/null
  say "docker is $(systemctl is-active docker), $(ufw status | head -n 1), $(iptables -S FORWARD | head -n 1)"
  mkdir -p /etc/boxkeep
  printf 'instance = "main"\n[node]\nimages = "/var/cache/images"\nwarm = {}\n' >/etc/boxkeep/main.toml
  make up && say "make up is through" || { say "make up ended with $?"; false; }
  systemctl is-enabled boxkeep-node-main boxkeep-serve-main
  job begin && say "the main job is done under both isolations"
  systemctl restart boxkeep-node-main boxkeep-serve-main && job goes-on && say "sandboxes went on through a restart of both units"
  make restart && job goes-on && say "and through make restart"
  systemctl daemon-reload && systemctl daemon-reexec && job goes-on && say "and through systemd's own reload and re-execution"
  systemctl restart docker && ufw reload >/dev/null && job goes-out && say "sandboxes have egress after docker and ufw were restarted"
  job pause && say "one is paused"
  touch "$state/rebooted"
  date +%s >"$state/down-at"
  say "rebooting with sandboxes running"
  trap - EXIT
  systemctl reboot
  sleep infinity
}

after() {
  say "up again $(($(date +%s) - $(cat "$state/down-at"))) s after it was told to go down"
  job after-reboot && say "what ran is failed and says why; what was paused goes on with its memory"
  job goes-out && say "sandboxes have egress"
  boxkeep doctor --leaks && say "nothing leaks"
  make down && say "down" && [ -z "$(left)" ] || { left; say "something is left"; false; }
  systemctl is-enabled boxkeep-node-main && false || say "nothing starts at boot after make down"
  make purge && [ -z "$(ls -d /etc/boxkeep /var/lib/boxkeep /opt/boxkeep /etc/systemd/system/boxkeep* 2>/dev/null)" ] && say "purged"
  off "all is well"
}

if [ -e "$state/rebooted" ]; then after; else before; fi
