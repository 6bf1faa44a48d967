#!/usr/bin/env bash
# One installation on this machine: instance.sh up|restart|down|purge|status
# From the environment: INSTANCE (main), PORT (7070), SUBNET (10.213.0.0/16).
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
instance=${INSTANCE:-main}
port=${PORT:-7070}
subnet=${SUBNET:-10.213.0.0/16}
opt=/opt/boxkeep/$instance
lib=/var/lib/boxkeep/$instance
run=/run/boxkeep/$instance
log=/var/log/boxkeep/$instance
config=/etc/boxkeep/$instance.toml
url=http://127.0.0.1:$port
account=boxkeep
packages=(btrfs-progs ca-certificates curl iproute2 mmdebstrap nftables python3 python3-venv runc util-linux zstd)

say() { printf '%s\n' "$*"; }
die() { printf 'boxkeep: %s\n' "$*" >&2; exit 1; }
boxkeep() { BOXKEEP_CONFIG=$config PATH=$opt/bin:$PATH "$opt/venv/bin/boxkeep" "$@"; }
need_root() { [ "$(id -u)" = 0 ] || die "run it as root"; }

lives() { # NAME: whether the service's process of this instance lives
  local pid
  pid=$(cat "$run/$1.pid" 2>/dev/null) && [ -n "$pid" ] &&
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$opt/venv/bin/boxkeep $1"
}

start() { # NAME
  lives "$1" && return
  local size
  size=$(stat -c %s "$log/$1.log" 2>/dev/null || echo 0)
  [ "$size" -lt 52428800 ] || mv "$log/$1.log" "$log/$1.log.1"
  BOXKEEP_CONFIG=$config PATH=$opt/bin:$PATH setsid "$opt/venv/bin/boxkeep" "$1" </dev/null >>"$log/$1.log" 2>&1 &
  echo $! >"$run/$1.pid"
}

stop() { # NAME
  local pid
  if lives "$1"; then
    pid=$(cat "$run/$1.pid")
    kill -TERM "$pid"
    for _ in $(seq 150); do
      lives "$1" || break
      sleep 0.1
    done
    lives "$1" && kill -KILL "$pid"
  fi
  rm -f "$run/$1.pid"
}

wait_ready() {
  for _ in $(seq 600); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' "$url/readyz" || true)" = 200 ] && return
    lives node || die "the node has stopped; the end of $log/node.log:
$(tail -n 15 "$log/node.log")"
    lives serve || die "the control plane has stopped; the end of $log/serve.log:
$(tail -n 15 "$log/serve.log")"
    sleep 0.1
  done
  die "not ready within a minute: $(curl -s "$url/readyz"); logs are in $log"
}

write_config() {
  mkdir -p /etc/boxkeep
  [ -e "$config" ] && return
  cat >"$config" <<TOML
# Settings of this installation; docs/reference/settings.md lists them all.
instance = "$instance"
account = "$account"

[control]
port = $port

[node]
subnet = "$subnet"
warm = { "bun/runsc" = 1, "bun/runc" = 1, "python/runsc" = 1, "python/runc" = 1, "base/runsc" = 1, "base/runc" = 1 }
TOML
}

install_all() { # says "changed" when what runs is not what is installed any more
  local changed
  "$clone/scripts/packages.sh" "${packages[@]}"
  id "$account" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$account"
  install -d -m 0755 "$opt/bin" /var/lib/boxkeep /run/boxkeep /var/log/boxkeep
  install -d -m 0711 "$lib" "$run"
  install -d -m 0755 "$log"
  install -d -m 0700 -o "$account" -g "$account" "$lib/control"
  changed=$("$clone/scripts/venv.sh" "$opt/venv" server.txt)
  if ! "$clone/scripts/runtime.sh" "$opt/bin" >/dev/null 2>"$log/runsc.log"; then
    say "!! no runsc could be had (see $log/runsc.log): there is runc alone, tenants share this host's kernel" >&2
  fi
  write_config
  [ "$instance" = main ] && printf '#!/bin/sh\nexport BOXKEEP_CONFIG=%s PATH=%s:$PATH\nexec %s "$@"\n' \
    "$config" "$opt/bin" "$opt/venv/bin/boxkeep" >/usr/local/bin/boxkeep && chmod 0755 /usr/local/bin/boxkeep
  echo "$changed"
}

key() {
  local file=$lib/key
  if [ ! -s "$file" ]; then
    (umask 077 && boxkeep keys create --org local --plan unlimited >"$file")
  fi
  cat "$file"
}

try_out() { # ISOLATION: one sandbox, one line of code, gone again
  local id answer
  id=$(call POST /v1/sandboxes?wait=ready "{\"runtime\": \"python\", \"isolation\": \"$1\", \"maxDurationMs\": 60000}" |
    sed -n 's/.*"id":"\([a-z0-9]*\)".*/\1/p')
  [ -n "$id" ] || die "no sandbox under $1; logs are in $log"
  answer=$(call POST /v1/sandboxes/code "{\"id\": \"$id\", \"code\": \"import platform; print(6 * 7, platform.release())\"}")
  call DELETE "/v1/sandboxes?id=$id" '' >/dev/null
  case $answer in
    *'"stdout":"42 '*) say "  $1: a sandbox ran python and said $(sed -n 's/.*"stdout":"\([^\\"]*\).*/\1/p' <<<"$answer")" ;;
    *) die "a sandbox under $1 answered: $answer" ;;
  esac
}

call() { # METHOD PATH BODY
  curl -sS -X "$1" "$url$2" -H "Authorization: Bearer $(key)" ${3:+-H 'Content-Type: application/json' -d "$3"}
}

up() {
  need_root
  local changed
  changed=$(install_all)
  boxkeep doctor || die "this machine cannot run Boxkeep as it is: see FATAL above"
  say "images:"
  boxkeep images build
  if [ -n "$changed" ]; then
    stop serve
    stop node
  fi
  start node
  start serve
  wait_ready
  say "tried out:"
  for isolation in $(isolations); do try_out "$isolation"; done
  say "Boxkeep runs on $url"
  say "  API key:  $(key)   (organisation local, unlimited; kept in $lib/key)"
  say "  logs:     $log/serve.log $log/node.log"
}

isolations() {
  PATH=$opt/bin:$PATH command -v runsc >/dev/null && echo runsc
  command -v runc >/dev/null && echo runc
}

restart() {
  need_root
  [ -x "$opt/venv/bin/boxkeep" ] || die "not installed; \`make up\` does that"
  stop serve
  stop node
  start node
  start serve
  wait_ready
  say "restarted; sandboxes went on"
}

down() {
  need_root
  stop serve
  stop node
  if [ -x "$opt/venv/bin/boxkeep" ]; then
    boxkeep down
  fi
  rm -rf "$run"
  say "down; the data stays in $lib"
}

purge() {
  need_root
  down
  rm -rf "$opt" "$lib" "$log" "$config"
  [ "$instance" = main ] && rm -f /usr/local/bin/boxkeep
  rmdir --ignore-fail-on-non-empty /opt/boxkeep /var/lib/boxkeep /run/boxkeep /var/log/boxkeep /etc/boxkeep 2>/dev/null || true
  say "purged"
}

case ${1:-} in
  up | restart | down | purge) "$1" ;;
  status) for name in node serve; do lives $name && say "$name runs" || say "$name does not run"; done ;;
  *) die "usage: instance.sh up|restart|down|purge|status" ;;
esac
