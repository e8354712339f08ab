#!/usr/bin/env bash
# Format, lint, types, unit tests; about a minute on an idle machine when little has changed. What is only read runs beside the tests, which
# run on the sources. Formatter and linter look again at what has changed (by content, settings and version); their caches are in
# node_modules/.cache/check, and may be deleted at any time.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"
cache=node_modules/.cache/check
mkdir -p "$cache"

# The tests load it.
npm run --silent bundle

statics() {
  prettier --check --log-level warn --cache --cache-strategy content --cache-location "$cache/prettier" . &&
    eslint --max-warnings 0 --cache --cache-strategy content --cache-location "$cache/eslint" . &&
    tsc -b
}

statics >"$cache/statics.log" 2>&1 &
statics=$!
status=0
vitest run --project unit || status=1
wait "$statics" || { status=1; echo 'check: format, lint or types:' >&2; }
cat "$cache/statics.log" >&2
exit "$status"
