#!/usr/bin/env bash
# Say where a runsc is, or fetch the one of Debian's next release into a directory: runtime.sh DIRECTORY
#
# The package comes by apt itself, from this machine's own Debian sources with the name of the next release put in, read in
# directories of their own: the machine's package lists and its other packages are left as they are.
set -euo pipefail

directory=$1
next=${NEXT_RELEASE:-trixie}
oldest=20240101

new_enough() {
  local version
  version=$("$1" --version 2>/dev/null | sed -n 's/.*\(20[0-9]\{6\}\).*/\1/p' | head -n 1)
  [ -n "$version" ] && [ "$version" -ge "$oldest" ]
}

for binary in "$directory/runsc" "$(command -v runsc || true)"; do
  if [ -n "$binary" ] && [ -x "$binary" ] && new_enough "$binary"; then
    echo "$binary"
    exit 0
  fi
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial" "$scratch/sources" "$scratch/deb"
if [ -e /etc/apt/sources.list.d/debian.sources ]; then
  awk -v RS= -v ORS='\n\n' '!/security/' /etc/apt/sources.list.d/debian.sources |
    sed "s/^Suites:.*/Suites: $next/" >"$scratch/sources/next.sources"
else
  grep -hE '^deb ' /etc/apt/sources.list 2>/dev/null | grep -v security | head -n 1 |
    awk -v next_release="$next" '{ for (i = 1; i <= NF; i++) if ($i ~ /^(https?|file):/) $(i + 1) = next_release; print }' \
      >"$scratch/sources/next.list"
fi
apt=(-o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$scratch/sources" -o "Dir::State::Lists=$scratch/lists"
  -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
apt-get "${apt[@]}" -qq update >&2
(cd "$scratch/deb" && apt-get "${apt[@]}" -qq download runsc >&2)
dpkg-deb -x "$scratch"/deb/runsc_*.deb "$scratch/unpacked"
install -D -m 0755 "$scratch/unpacked/usr/bin/runsc" "$directory/runsc"
new_enough "$directory/runsc"
echo "$directory/runsc"
