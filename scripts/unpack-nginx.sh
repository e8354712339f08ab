#!/usr/bin/env bash
# Debian's nginx for tests and for `bench -- storm`, in build/nginx: its package is fetched by apt, which checks it, and only unpacked. Installed it would
# bring a service that starts with the machine. Quick when it is there. Environment: COLLECTIVE_NO_INSTALL=1 only reports that it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

target=build/nginx
if "$target/usr/sbin/nginx" -v 2>/dev/null || command -v /usr/sbin/nginx >/dev/null; then exit 0; fi
if [ "${COLLECTIVE_NO_INSTALL:-}" = 1 ]; then
  say "nginx is missing. Install it, or let scripts/unpack-nginx.sh fetch Debian's package into $target"
  exit 1
fi
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
options=()
if [ "$(id -u)" = 0 ]; then options=(-o APT::Sandbox::User=root); fi
fetch() { (cd "$temporary" && apt-get "${options[@]}" download -qq nginx >&2); }
if ! fetch; then
  if [ "$(id -u)" = 0 ]; then sudo=(); else sudo=(sudo -n); fi
  "${sudo[@]}" apt-get update -qq >&2 || { say "apt knows no package nginx. Run as root:  apt-get update"; exit 1; }
  fetch
fi
say "unpacking Debian's nginx into $target"
dpkg-deb -x "$temporary"/nginx_*.deb "$temporary/nginx"
"$temporary/nginx/usr/sbin/nginx" -v
mkdir -p build
rm -rf "$target"
mv "$temporary/nginx" "$target"
