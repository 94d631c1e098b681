#!/usr/bin/env bash
# Makes sure that the browser tests find a Chromium: the system's, Debian's package, or Playwright's.
set -euo pipefail
bin=${1:?the virtual environment\'s bin directory}
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
"$bin/python" - <<'PY' && exit 0
import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    sys.exit(not os.path.exists(p.chromium.executable_path))
PY
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null && { [ -z "$sudo" ] || sudo -n true 2>/dev/null; }; then
    echo "Installing Chromium for the browser tests (apt-get)" >&2
    $sudo apt-get update -qq && $sudo apt-get install -qq -y --no-install-recommends chromium >&2 && exit 0
fi
echo "Installing Chromium for the browser tests (Playwright)" >&2
"$bin/playwright" install chromium
