#!/usr/bin/env bash
# Set-up, then all tests; the last line is "N passed, N failed[, N skipped]". Arguments go to vitest (a path runs only that).
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
mkdir -p build
status=0
npx vitest run --reporter=default --reporter=json --outputFile.json=build/test-results.json "$@" || status=$?
node scripts/test-summary.mjs build/test-results.json || status=1
exit "$status"
