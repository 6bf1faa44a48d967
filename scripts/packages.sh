#!/usr/bin/env bash
# Install Debian packages that are missing, taking nothing away: packages.sh NAME…
set -euo pipefail

mapfile -t missing < <(comm -23 <(printf '%s\n' "$@" | sort) \
  <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p' | sort))
[ ${#missing[@]} -gt 0 ] || exit 0
echo "installing from Debian: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -qq -o DPkg::Lock::Timeout=300 --no-install-recommends --no-remove "${missing[@]}")
if ! "${install[@]}" >/dev/null 2>&1; then
  dpkg --configure -a >/dev/null # an installation that was killed half-way
  apt-get update -qq >/dev/null
  "${install[@]}" >/dev/null
fi
