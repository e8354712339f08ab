#!/usr/bin/env bash
# Format, lint, types, unit tests; about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
npx prettier --check --log-level warn .
npx eslint --max-warnings 0 .
npx tsc -b
npx vitest run --project unit
