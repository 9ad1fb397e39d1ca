#!/usr/bin/env bash
# Make or reuse the virtual environment in .venv with pimchip installed in it: setup.sh [EXTRA,...]
# Run by demo.sh and test.sh. A second run with nothing changed takes no time: a stamp holds what was installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
extras=${1:-}
venv="$root/.venv"
stamp="$venv/installed-${extras:-base}"
wanted=$(cat "$root/pyproject.toml" "$root/tools/constraints.txt" | cksum)

if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  python=""
  for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "pimchip needs Python 3.11 or newer: install it, or set PYTHON to one" >&2
    exit 2
  fi
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || {
    echo "cannot make a virtual environment in $venv: on Debian, apt-get install python3-venv" >&2
    exit 2
  }
  echo "installing pimchip${extras:+ with $extras} into .venv, once; this downloads PyTorch and takes some minutes" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$root/tools/constraints.txt" \
    -e "$root${extras:+[$extras]}" >&2
  echo "$wanted" >"$stamp"
fi
