#!/usr/bin/env bash
# The long versions of the tests: resumable, bounded. npm run soak -- [--part NAME]… [--minutes N] [--seed N] [--list] [--fresh]
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
exec node test/dist/soak/main.js "$@"
