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
install() { # install <folder with a package-lock.json> <where to> <npm's words>…
    local from=$1 to=$2 wanted
    shift 2
    wanted=$(hash_of "$from/package.json" "$from/package-lock.json")
    if [ "$(cat "$to/installed" 2>/dev/null)" != "$wanted" ]; then
        echo "sdk: installing into $to"
        rm -rf "$to"
        mkdir -p "$to"
        cp "$from/package.json" "$from/package-lock.json" "$to"
        npm "$@" --prefix "$to" --ignore-scripts --no-audit --no-fund --loglevel=error
        if [ -d "$to/node_modules/next" ]; then
            # 226 MB, of which half is never looked at: what serves during development, and maps of sources.
            rm -rf "$to/node_modules/next/dist/esm"
            find "$to/node_modules" \( -name '*.map' -o -name '*.runtime.dev.js' \) -delete
        fi
        echo "$wanted" >"$to/installed"
    fi
}

install "$source" "$there/package" ci
# Not `npm ci`: of Deno, the parts for other machines are not in every registry.
install "$here" "$there/consumer" install
# In a folder of its own, without the compilers that it has for each machine (and so not `npm ci`, either).
install "$here/next" "$there/next" install --omit=optional

wanted=$(hash_of "$source" "$here")
if [ "$(cat "$there/built" 2>/dev/null)" != "$wanted" ]; then
    echo "sdk: building"
    rm -f "$there/built" "$there"/package/*.tgz
    rm -rf "$there/package/src" "$there/package/test"
    cp -r "$source"/{src,test,build.mjs,tsconfig.json,package.json,README.md,LICENSE} "$there/package"
    (cd "$there/package" && node build.mjs && npm pack --silent --ignore-scripts >/dev/null)
    mv "$there"/package/*.tgz "$there/tidegate-sdk.tgz"
    for user in consumer next; do
        rm -rf "$there/$user/node_modules/@tidegate/sdk"
        mkdir -p "$there/$user/node_modules/@tidegate/sdk"
        tar -xzf "$there/tidegate-sdk.tgz" -C "$there/$user/node_modules/@tidegate/sdk" --strip-components=1
    done
    rm -rf "$there"/consumer/{types,samples,run}
    cp -r "$here"/{types,samples,run} "$there/consumer"
    cp "$here"/next/{route.ts,call.mjs,edge.cjs} "$there/next"
    echo "$wanted" >"$there/built"
fi
