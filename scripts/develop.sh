#!/usr/bin/env bash
# What developers and CI do with a clone: develop.sh test|check|generate|format|bench|soak
# The environment with the tools and what is built lie outside of the clone, in $TEST_CACHE (/var/cache/boxkeep).
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
cache=${TEST_CACHE:-/var/cache/boxkeep}
venv=$cache/venv
export PATH=$venv/bin:$cache/bin:$PATH
export PYTHONPATH=$clone/sdk:$clone/server:$clone/guest PYTHONDONTWRITEBYTECODE=1
export TEST_CACHE=$cache
cd "$clone"

packages=(btrfs-progs ca-certificates chromium curl ffmpeg iproute2 iptables mmdebstrap nftables postgresql procps python3
  python3-venv runc systemd tigervnc-standalone-server util-linux x11-xserver-utils zstd)

say() { printf '\n== %s\n' "$*"; }

prepare() {
  [ "$(id -u)" = 0 ] || { echo "run it as root: the tests make namespaces, mounts and accounts" >&2; exit 1; }
  scripts/packages.sh "${packages[@]}"
  mkdir -p "$cache/bin"
  scripts/venv.sh "$venv" dev.txt >/dev/null
  scripts/runtime.sh "$cache/bin" >/dev/null
}

check() {
  say "format, lint, types, imports"
  ruff format --check -q .
  ruff check -q .
  mypy server sdk tests
  (cd guest && mypy boxkeep_guest boxkeep_desktop boxkeep_agent boxkeep_tools)
  lint-imports
  say "generated files and documents"
  python scripts/code_map.py --check
  python scripts/openapi.py --check
  python scripts/settings_page.py --check
  python scripts/specification.py
  scripts/no_hosts.sh
}

generate() {
  ruff format -q .
  python scripts/code_map.py
  python scripts/openapi.py
  python scripts/settings_page.py
}

images() { # Before any test: what takes minutes is none's own, and would be waited for in both lanes.
  say "images for the tests"
  python -m tests.ingredients
}

case ${1:-} in
  check) prepare && check ;;
  test)
    prepare
    check
    images
    say "tests"
    # Not one pytest after the other: most of what tests do is to wait. Not more than two: what they start computes.
    exec python -m tests.lanes -q --durations=15 # it is told of signals in our place, and ends what it has begun
    ;;
  generate | format) prepare && generate ;;
  bench) prepare && shift && python -m tests.bench "$@" ;;
  soak) prepare && images && shift && SOAK=1 python -m pytest -q tests/chaos tests/system "$@" ;;
  *)
    echo "usage: develop.sh test|check|generate|format|bench|soak" >&2
    exit 2
    ;;
esac
