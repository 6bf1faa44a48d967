#!/usr/bin/env bash
# One installation on this machine: instance.sh up|restart|down|purge|status
# From the environment: INSTANCE (main), PORT (7070), SUBNET (10.213.0.0/16), CAPABILITIES (none, or some of
# documents, browser, opencode), DISKS (pool, or directory where there is no btrfs or no loop device).
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
instance=${INSTANCE:-main}
port=${PORT:-7070}
subnet=${SUBNET:-10.213.0.0/16}
disks=${DISKS:-pool}
opt=/opt/boxkeep/$instance
lib=/var/lib/boxkeep/$instance
run=/run/boxkeep/$instance
log=/var/log/boxkeep/$instance
config=/etc/boxkeep/$instance.toml
environment=/etc/boxkeep/$instance.env
url=http://127.0.0.1:$port
account=boxkeep
lock=/run/lock/boxkeep-$instance.lock
packages=(btrfs-progs ca-certificates curl iproute2 mmdebstrap nftables python3 python3-venv runc util-linux zstd)

say() { printf '%s\n' "$*"; }
die() { printf 'boxkeep: %s\n' "$*" >&2; exit 1; }
boxkeep() { BOXKEEP_CONFIG=$config PATH=$opt/bin:$PATH "$opt/venv/bin/boxkeep" "$@"; }
need_root() { [ "$(id -u)" = 0 ] || die "run it as root"; }

# Where systemd is init the services are its units, else processes of their own; both ways have the same functions.
. "$clone/scripts/services_detached.sh"
. "$clone/scripts/services_systemd.sh"
services=detached
[ ! -d /run/systemd/system ] || services=systemd

lives() { "${services}_lives" "$1"; } # NAME: whether the service of this instance runs
start() { "${services}_start" "$1"; } # NAME
stop() { "${services}_stop" "$1"; } # NAME

is_current() { # NAME: whether the service that runs is of what is installed now
  lives "$1" && cmp -s "$run/$1.version" "$opt/venv/boxkeep.stamp"
}

wait_ready() {
  local name
  for _ in $(seq 1000); do # images are unpacked first, which takes a slow machine minutes
    [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/readyz" || true)" = 200 ] && return
    for name in node serve; do
      lives $name || die "the service $name has stopped; its last words:
$("${services}_said" $name)"
    done
    sleep 0.3
  done
  die "not ready within five minutes: $(curl -s "$url/readyz"); logs: $("${services}_logs")"
}

capabilities() { # the line of the settings that CAPABILITIES stand for
  local list
  list=$(printf '"%s", ' ${CAPABILITIES:-})
  [ -n "${CAPABILITIES:-}" ] || list=
  printf 'capabilities = [%s]' "${list%, }"
}

write_config() {
  [ -e "$config" ] && return
  mkdir -p /etc/boxkeep
  cat >"$config.new" <<TOML
# Settings of this installation; docs/reference/settings.md lists them all.
instance = "$instance"
account = "$account"

[control]
port = $port
preview_port = $((port + 2))

[node]
subnet = "$subnet"
disks = "$disks"
$(capabilities)
warm = { "bun/runsc" = 1, "bun/runc" = 1, "python/runsc" = 1, "python/runc" = 1, "base/runsc" = 1, "base/runc" = 1 }
TOML
  mv "$config.new" "$config"
}

write_environment() { # What services are to know of the mirrors and proxies that this shell goes by.
  [ -e "$environment" ] && return
  local name
  (
    umask 077
    for name in $(compgen -e | grep -iE '^(https?_proxy|no_proxy|all_proxy|pip_.*|npm_config_.*)$'); do
      printf '%s=%q\n' "$name" "${!name}"
    done >"$environment.new"
  )
  mv "$environment.new" "$environment"
}

read_config() { # The settings are the operator's once they are written: what they say goes.
  local written
  [ -e "$config" ] || return 0
  written=$(sed -n 's/^port *= *\([0-9]*\).*/\1/p' "$config" | head -n 1)
  if [ -n "${PORT:-}" ] && [ "$PORT" != "${written:-7070}" ]; then
    die "this installation has port ${written:-7070}; change it in $config and run \`make restart\`"
  fi
  if [ -n "${CAPABILITIES:-}" ] && ! grep -qxF "$(capabilities)" "$config"; then
    die "what this installation is capable of is in $config; change node.capabilities there and run \`make up\`"
  fi
  if [ -n "${DISKS:-}" ] && [ "$DISKS" != "$(written_disks)" ]; then
    die "the disks of this installation lie in a $(written_disks), and stay there: \`make purge\` first, which removes all that is kept"
  fi
  url=http://127.0.0.1:${written:-7070}
  preview_port=$(sed -n 's/^preview_port *= *\([0-9]*\).*/\1/p' "$config" | head -n 1)
  preview_port=${preview_port:-7072}
}

written_disks() {
  local found
  found=$(sed -n 's/^disks *= *"\([a-z]*\)".*/\1/p' "$config" | head -n 1)
  printf '%s' "${found:-pool}"
}

check_host() { # Before anything is installed: what no installation mends, by the system's own Python.
  "$clone/scripts/packages.sh" python3
  /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed"
  PYTHONPATH=$clone/server PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m boxkeep_server.node.before_install \
    "$config" "$instance" "$subnet" "$port" "$disks" || die "this machine cannot run Boxkeep as it is: see above; nothing was installed"
}

install_all() {
  "$clone/scripts/packages.sh" "${packages[@]}"
  id "$account" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$account"
  install -d -m 0755 "$opt/bin" /var/lib/boxkeep /run/boxkeep /var/log/boxkeep
  install -d -m 0711 "$lib" "$run"
  install -d -m 0755 "$log"
  # Moved here from a machine where the account has another number; where it is its own already, nobody follows its links.
  [ ! -d "$lib/control" ] || [ "$(stat -c %U "$lib/control")" = "$account" ] || chown -RP "$account:$account" "$lib/control"
  install -d -m 0700 -o "$account" -g "$account" "$lib/control"
  "$clone/scripts/venv.sh" "$opt/venv" server.txt
  if ! "$clone/scripts/runtime.sh" "$opt/bin" >/dev/null 2>"$log/runsc.log"; then
    say "!! no runsc could be had (see $log/runsc.log): there is runc alone, tenants share this host's kernel" >&2
  fi
  write_config
  write_environment
  if [ "$instance" = main ]; then
    printf '#!/bin/sh\nexport BOXKEEP_CONFIG=${BOXKEEP_CONFIG:-%s} PATH=%s:$PATH\nexec %s "$@"\n' \
      "$config" "$opt/bin" "$opt/venv/bin/boxkeep" >/usr/local/bin/boxkeep
    chmod 0755 /usr/local/bin/boxkeep
  fi
}

key() {
  local file=$lib/key
  if [ ! -s "$file" ]; then
    (umask 077 && boxkeep keys create --org local --plan unlimited >"$file.new" && mv "$file.new" "$file")
  fi
  cat "$file"
}

up() {
  read_config
  check_host
  install_all
  read_config
  boxkeep doctor || die "this machine cannot run Boxkeep as it is: see FATAL above"
  boxkeep images build
  "${services}_install"
  for name in serve node; do
    is_current $name || stop $name
  done
  start node
  start serve
  wait_ready
  local key tried=0
  key=$(key)
  say "tried out:"
  boxkeep try || tried=$?
  say "Boxkeep runs on $url"
  say "  previews: http://<port>-<sandbox id>.localhost:${preview_port}"
  say "  API key:  $key   (organisation local, unlimited; kept in $lib/key)"
  say "  logs:     $("${services}_logs")"
  [ $tried = 0 ] || die "not every sandbox did what it should: see FAILED above"
}

restart() {
  need_installed
  read_config
  stop serve
  stop node
  start node
  start serve
  wait_ready
  say "restarted; sandboxes went on"
}

stop_all() {
  stop serve
  stop node
}

down() {
  stop_all
  if [ -x "$opt/venv/bin/boxkeep" ]; then
    boxkeep down || die "not everything is down: see above. \`make purge\` removes the data even where the store cannot be opened"
  elif remains; then
    die "the programs in $opt are gone, but machines are not: run \`make up\` first"
  fi
  rm -rf --one-file-system "$run"
  say "down; the data stays in $lib"
}

remains() { # whether the kernel still holds anything of this instance
  [ -n "$(losetup --noheadings --associated "$lib/pool.img" 2>/dev/null)" ] ||
    [ -n "$(find /sys/fs/cgroup -maxdepth 2 -name "boxkeep-$instance" -print -quit 2>/dev/null)" ]
}

purge() {
  stop_all
  if [ -x "$opt/venv/bin/boxkeep" ]; then
    boxkeep down || boxkeep down --without-store || die "machines are still there, so nothing was removed: see above"
  elif remains; then
    die "the programs in $opt are gone, but machines are not, so nothing was removed: run \`make up\` first"
  fi
  "${services}_forget"
  rm -rf --one-file-system "$run" "$opt" "$lib" "$log" "$config" "$environment"
  [ "$instance" != main ] || rm -f /usr/local/bin/boxkeep
  rmdir --ignore-fail-on-non-empty /opt/boxkeep /var/lib/boxkeep /run/boxkeep /var/log/boxkeep /etc/boxkeep 2>/dev/null || true
  say "purged"
}

need_installed() { [ -x "$opt/venv/bin/boxkeep" ] || die "not installed; \`make up\` does that"; }

alone() { # One of these at a time; what an earlier one that was killed has left running is waited for.
  need_root
  [[ $disks =~ ^(pool|directory)$ ]] || die "DISKS must be pool or directory"
  [[ $instance =~ ^[a-z][a-z0-9]{0,7}$ ]] || die "INSTANCE must be a lower-case letter and up to seven letters and digits"
  exec 9>"$lock"
  flock --nonblock 9 || { say "waiting for another make of this installation" && flock 9; }
}

status() {
  local name
  for name in node serve; do
    if lives $name; then say "$name runs"; else say "$name does not run"; fi
  done
}

case ${1:-} in
  up | restart | down | purge)
    alone
    "$1"
    ;;
  status) status ;;
  *) die "usage: instance.sh up|restart|down|purge|status" ;;
esac
