#!/usr/bin/env bash
# Installs what the tests need, on Debian and Ubuntu as root; elsewhere says what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { # need <command> <Debian package>…
    command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}")
}
need cc gcc
need node nodejs
need npm npm
need python3 python3 python3-venv
need chromium chromium
need setpriv util-linux
# A server of any version; Debian keeps its programs out of the path.
command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
    else
        echo "setup: please install: ${missing[*]}" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: please install Rust 1.90 or newer: https://rustup.rs" >&2
    exit 1
fi

# The outside judges of our signatures: the Standard Webhooks libraries for JavaScript and Python.
tests/judges/install.sh

# Real clients that post to us, with only their host changed.
tests/clients/install.sh

# The TypeScript SDK, built, packed, and installed as a user would.
tests/sdk/install.sh
