#!/usr/bin/env bash
# Set up .venv if needed and run every check and test: test.sh [options of pytest]
# With options, only pytest runs. `test.sh -m study` runs the long statistics.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bash "$root/tools/setup.sh" test,dev,brevitas
cd "$root"
bin="$root/.venv/bin"
# Torch's threads, if they spin while they wait, slow everything tenfold when tests share the cores.
export OMP_WAIT_POLICY=PASSIVE
if [ $# -eq 0 ]; then
  "$bin/ruff" check .
  "$bin/ruff" format --check .
  "$bin/mypy"
  "$bin/lint-imports" >/tmp/pimchip-imports.$$ || { cat /tmp/pimchip-imports.$$; rm -f /tmp/pimchip-imports.$$; exit 1; }
  rm -f /tmp/pimchip-imports.$$
  "$bin/python" tools/generate_gauss.py --check
  "$bin/python" tools/generate_chip_vectors.py --check
  "$bin/python" tools/generate_protocol.py --check
  "$bin/python" tools/trace_protocol.py --check
  "$bin/python" tools/generate_frame_vectors.py --check
fi
exec "$bin/python" -m pytest -n 2 --dist worksteal "$@"
