# Services as units of systemd, of their own for each installation: boxkeep-node-main and boxkeep-serve-main, with
# boxkeep-machines-main, which ends the machines as the host goes down.
# Sourced by instance.sh, whose variables these functions use. NAME is node or serve.

units=/etc/systemd/system

systemd_unit() { printf 'boxkeep-%s-%s.service' "$1" "$instance"; } # NAME

systemd_lives() { systemctl is-active --quiet "$(systemd_unit "$1")"; } # NAME

systemd_text() { # NAME: its unit, for this installation
  local place words=()
  for place in instance account opt lib run config environment; do
    words+=(-e "s|@$place@|${!place}|g")
  done
  sed "${words[@]}" "$clone/scripts/units/boxkeep-$1.service"
}

systemd_install() { # Write the units; a service whose unit is another now is stopped, to be started by it.
  local name file changed=
  for name in machines node serve; do
    file=$units/$(systemd_unit $name)
    systemd_text $name >"$file.new"
    if cmp -s "$file.new" "$file"; then
      rm "$file.new"
      continue
    fi
    [ $name = machines ] || systemd_stop $name
    mv "$file.new" "$file"
    changed=yes
  done
  [ -z "$changed" ] || systemctl daemon-reload
  for name in serve node; do
    detached_stop $name # of a time before there were units
  done
}

systemd_start() { # NAME
  systemctl enable --quiet "$(systemd_unit "$1")"
  systemctl start "$(systemd_unit "$1")"
}

systemd_stop() { # NAME: it is not started at boot any more either
  [ -e "$units/$(systemd_unit "$1")" ] || return 0
  systemctl disable --quiet --now "$(systemd_unit "$1")"
  systemctl reset-failed "$(systemd_unit "$1")" 2>/dev/null || true
}

systemd_forget() {
  local name
  for name in serve node machines; do
    systemd_stop $name
    rm -f "$units/$(systemd_unit $name)"
  done
  systemctl daemon-reload
}

systemd_said() { journalctl --unit "$(systemd_unit "$1")" --lines 15 --no-pager --output cat; } # NAME

systemd_logs() { printf 'journalctl -u %s -u %s\n' "$(systemd_unit serve)" "$(systemd_unit node)"; }
