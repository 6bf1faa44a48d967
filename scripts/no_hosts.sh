#!/usr/bin/env bash
# No package registry of this machine is named in the tree: mirrors come from each machine's own configuration.
set -euo pipefail

cd "$(dirname "$0")/.."
hosts=$( (grep -rhoE 'https?://[^/ ]+' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null || true) | sed 's#.*//##' | sort -u |
  sed 's/\./\\./g' | paste -sd'|')
found=$(git ls-files -z | xargs -0 grep -nIE "${hosts:-no-host-is-configured}|[/.]py[p]i\.o|py[t]honhosted|np[m]js\.or" || true)
[ -z "$found" ] || { printf 'registries are named here:\n%s\n' "$found" >&2; exit 1; }
