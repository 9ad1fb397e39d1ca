#!/usr/bin/env bash
# Set up .venv if needed and run the demo: demo.sh [options of `pimchip demo`]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/tools/setup.sh"
cd "$root"
exec "$root/.venv/bin/pimchip" demo "$@"
