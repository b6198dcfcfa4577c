#!/usr/bin/env bash
# Installs the clients into target/clients. Quick when they are there already.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tests/clients
there="${CARGO_TARGET_DIR:-target}/clients"
wanted=$(cat "$here"/*.json "$here"/*.txt "$here"/send.* "$here"/sign.mjs "$here"/page.* | sha256sum | cut -d' ' -f1)

if [ "$(cat "$there/installed" 2>/dev/null)" != "$wanted" ]; then
    echo "clients: installing into $there"
    mkdir -p "$there"
    rm -f "$there/installed"
    cp "$here"/*.json "$here"/*.txt "$here"/send.* "$here"/sign.mjs "$here"/page.* "$there"
    # Not `npm ci`: an optional package of a package of a client has parts that the registry lost.
    npm install --prefix "$there" --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error
    for set in segment-2.3.4 segment-2.4.0 rudder; do
        rm -rf "${there:?}/$set"
        python3 -m venv "$there/$set"
        "$there/$set/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$here/$set.txt"
    done
    echo "$wanted" >"$there/installed"
fi
