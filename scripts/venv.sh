#!/usr/bin/env bash
# Make a Python environment with pinned requirements and Boxkeep's three packages: venv.sh DIRECTORY REQUIREMENTS
# Says nothing and changes nothing when it is current. The clone is read, never written.
set -euo pipefail

clone=$(cd "$(dirname "$0")/.." && pwd)
directory=$1
requirements=$clone/requirements/$2
sources=$(cd "$clone" && find sdk server guest "requirements/$2" -type f ! -name '*.pyc' ! -path '*/build/*' ! -path '*.egg-info/*' |
  LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d' ' -f1)
pins=$(sha256sum "$requirements" | cut -d' ' -f1)
stamp=$directory/boxkeep.stamp

[ "$(cat "$stamp" 2>/dev/null)" = "$sources" ] && exit 0
[ -x "$directory/bin/python" ] || /usr/bin/python3 -m venv "$directory"
rm -f "$stamp"
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
echo "$sources" >"$stamp"
echo changed
