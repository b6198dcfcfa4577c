#!/usr/bin/env bash
# Builds and packs the SDK, and installs it as a user would, into target/sdk. Quick when it is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tests/sdk
source=sdk/typescript
there="${CARGO_TARGET_DIR:-target}/sdk"
hash_of() { # hash_of <file or folder>…
    find "$@" -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}
install() { # install <folder with a package-lock.json> <where to> <npm's word>
    local wanted
    wanted=$(hash_of "$1/package.json" "$1/package-lock.json")
    if [ "$(cat "$2/installed" 2>/dev/null)" != "$wanted" ]; then
        echo "sdk: installing into $2"
        rm -rf "$2"
        mkdir -p "$2"
        cp "$1/package.json" "$1/package-lock.json" "$2"
        npm "$3" --prefix "$2" --ignore-scripts --no-audit --no-fund --loglevel=error
        echo "$wanted" >"$2/installed"
    fi
}

install "$source" "$there/package" ci
# Not `npm ci`: of Deno, the parts for other machines are not in every registry.
install "$here" "$there/consumer" install

wanted=$(hash_of "$source" "$here")
if [ "$(cat "$there/built" 2>/dev/null)" != "$wanted" ]; then
    echo "sdk: building"
    rm -f "$there/built" "$there"/package/*.tgz
    rm -rf "$there/package/src" "$there/package/test"
    cp -r "$source"/{src,test,build.mjs,tsconfig.json,package.json,README.md,LICENSE} "$there/package"
    (cd "$there/package" && node build.mjs && npm pack --silent --ignore-scripts >/dev/null)
    mv "$there"/package/*.tgz "$there/tidegate-sdk.tgz"
    rm -rf "$there/consumer/node_modules/@tidegate/sdk"
    mkdir -p "$there/consumer/node_modules/@tidegate/sdk"
    tar -xzf "$there/tidegate-sdk.tgz" -C "$there/consumer/node_modules/@tidegate/sdk" --strip-components=1
    rm -rf "$there"/consumer/{types,samples,run}
    cp -r "$here"/{types,samples,run} "$there/consumer"
    echo "$wanted" >"$there/built"
fi
