#!/usr/bin/env bash
# Installs the outside judges into target/judges. Quick when they are there already.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tests/judges
there="${CARGO_TARGET_DIR:-target}/judges"
wanted=$(cat "$here/package-lock.json" "$here/requirements.txt" "$here"/*.mjs "$here"/*.py | sha256sum | cut -d' ' -f1)

if [ "$(cat "$there/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "judges: installing into $there"
    rm -rf "$there"
    mkdir -p "$there"
    cp "$here"/package.json "$here"/package-lock.json "$here"/*.mjs "$here"/*.py "$there"
    npm ci --prefix "$there" --ignore-scripts --no-audit --no-fund --loglevel=error
    python3 -m venv "$there/python"
    "$there/python/bin/pip" install --quiet --disable-pip-version-check \
        --require-hashes --requirement "$here/requirements.txt"
    echo "$wanted" >"$there/installed"
fi
