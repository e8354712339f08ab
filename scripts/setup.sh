#!/usr/bin/env bash
# Brings a Debian 12 machine with Node 20 from a bare clone to a built checkout. Says what it installs, and what to do by hand where it may not.
# Quick when nothing is missing. Environment: COLLECTIVE_NO_INSTALL=1 only reports what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# 1. Node
if ! command -v node >/dev/null || ! node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)'; then
  say "Node 20.19 or later is needed (found: $(node -v 2>/dev/null || echo none)). See https://nodejs.org/ for how to install it."
  exit 1
fi

# 2. Debian's packages; scripts/debian-packages.txt says what each is for
missing=()
while read -r package _; do
  case "$package" in ''|'#'*) continue ;; esac
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done <scripts/debian-packages.txt
if [ ${#missing[@]} -gt 0 ]; then
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "${COLLECTIVE_NO_INSTALL:-}" = 1 ]; then
    say "missing Debian packages. Run as root:  apt-get update && $install"
    exit 1
  elif [ "$(id -u)" = 0 ]; then sudo=()
  elif sudo -n true 2>/dev/null; then sudo=(sudo -n)
  else
    say "missing Debian packages, and this user may not install them. Run as root:  apt-get update && $install"
    exit 1
  fi
  say "installing from Debian: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq >&2
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive $install -qq >&2
fi

# 3. npm's packages, when the lockfile is not what was installed last
stamp=node_modules/.collective-lock
wanted=$(cat package-lock.json package.json packages/*/package.json test/package.json | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  say "installing npm's packages from the lockfile (compiles better-sqlite3: about a minute)"
  # node-gyp would download Node's headers; Debian's and NodeSource's packages have them here.
  if [ -z "${npm_config_nodedir:-}" ] && [ -e /usr/include/node/node.h ]; then export npm_config_nodedir=/usr; fi
  npm ci --no-fund --no-audit --loglevel=error >&2
  printf '%s' "$wanted" >"$stamp"
fi

# 4. Build (incremental)
npm run --silent build >&2
