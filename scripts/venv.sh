#!/usr/bin/env bash
# Make a Python environment with pinned requirements and Boxkeep's three packages: venv.sh DIRECTORY REQUIREMENTS
# Changes nothing when it is current, and begins anew after one that was killed. The clone is read, never written.
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
directory=$1
requirements=$clone/requirements/$2
sources=$(cd "$clone" && find sdk server guest "requirements/$2" -type f ! -name '*.pyc' ! -path '*/build/*' ! -path '*.egg-info/*' |
  LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1)
pins=$(sha256sum "$requirements" | cut -d' ' -f1)
stamp=$directory/boxkeep.stamp
half=$directory.half

[ "$(cat "$stamp" 2>/dev/null)" = "$sources" ] && exit 0
rm -f "$stamp"
mkdir -p "$directory"
if [ -e "$half" ] || [ ! -x "$directory/bin/python" ]; then # half of an environment is none
  touch "$half"
  /usr/bin/python3 -m venv --clear "$directory"
fi
touch "$half"
if [ "$(cat "$directory/boxkeep.pins" 2>/dev/null)" != "$pins" ]; then
  "$directory/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r "$requirements"
  echo "$pins" >"$directory/boxkeep.pins"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for package in sdk server guest; do
  cp -r "$clone/$package" "$scratch/$package"
  find "$scratch/$package" -name '__pycache__' -prune -exec rm -rf {} +
done
"$directory/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --force-reinstall \
  "$scratch/sdk" "$scratch/server" "$scratch/guest"
rm -f "$half"
echo "$sources" >"$stamp"
