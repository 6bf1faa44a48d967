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

packages=(btrfs-progs ca-certificates chromium curl iproute2 iptables mmdebstrap nftables postgresql procps python3 python3-venv runc
  util-linux zstd)

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
  mypy server sdk
  (cd guest && mypy boxkeep_guest boxkeep_desktop)
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

images() {
  say "images for the tests"
  BOXKEEP_NODE__IMAGES=$cache/images python -m boxkeep.cli images build
}

# Two runs beside each other, for a test mostly waits: what is on real machines alone, and all else.
all_tests() {
  local machines=(tests/system tests/security) failed=0
  trap 'trap - INT TERM; kill 0' INT TERM
  (TEST_INSTANCE=beside TEST_SUBNET=10.222.0.0/16 python -m pytest -q --durations=15 "${machines[@]/#/--ignore=}" |
    sed -u 's/^/    /') &
  python -m pytest -q --durations=15 "${machines[@]}" || failed=1
  wait $! || failed=1
  return $failed
}

case ${1:-} in
  check) prepare && check ;;
  test)
    prepare
    check
    images
    all_tests
    ;;
  generate | format) prepare && generate ;;
  bench) prepare && shift && python -m tests.bench "$@" ;;
  soak) prepare && images && shift && SOAK=1 python -m pytest -q tests/chaos tests/system "$@" ;;
  *)
    echo "usage: develop.sh test|check|generate|format|bench|soak" >&2
    exit 2
    ;;
esac
