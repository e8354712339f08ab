#!/usr/bin/env bash
# npm run bench -- NAME [--json FILE] [--check]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec node test/dist/bench/main.js "$@"
