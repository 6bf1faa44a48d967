# Services as processes of their own sessions, where systemd is not init: nothing starts them again but `make up`.
# Sourced by instance.sh, whose variables these functions use. NAME is node or serve.

detached_pid() { cat "$run/$1.pid" 2>/dev/null; } # NAME

detached_lives() { # NAME
  local pid
  pid=$(detached_pid "$1") && [ -n "$pid" ] &&
    grep -qzxF "$opt/venv/bin/boxkeep" "/proc/$pid/cmdline" 2>/dev/null && grep -qzxF "$1" "/proc/$pid/cmdline" 2>/dev/null
}

detached_install() { :; }

detached_start() { # NAME
  detached_lives "$1" && return
  local size
  size=$(stat -c %s "$log/$1.log" 2>/dev/null || echo 0)
  [ "$size" -lt 52428800 ] || mv "$log/$1.log" "$log/$1.log.1"
  cp "$opt/venv/boxkeep.stamp" "$run/$1.version"
  (
    set -a
    [ ! -e "$environment" ] || . "$environment"
    BOXKEEP_CONFIG=$config PATH=$opt/bin:$PATH exec setsid "$opt/venv/bin/boxkeep" "$1"
  ) </dev/null >>"$log/$1.log" 2>&1 9>&- &
  echo $! >"$run/$1.pid"
}

detached_stop() { # NAME
  local pid
  if detached_lives "$1"; then
    pid=$(detached_pid "$1")
    kill -TERM "$pid"
    for _ in $(seq 150); do
      detached_lives "$1" || break
      sleep 0.1
    done
    if detached_lives "$1"; then
      kill -KILL "$pid"
      while detached_lives "$1"; do sleep 0.1; done
    fi
  fi
  rm -f "$run/$1.pid"
}

detached_forget() { :; }

detached_said() { tail -n 15 "$log/$1.log"; } # NAME

detached_logs() { printf '%s %s\n' "$log/serve.log" "$log/node.log"; }
