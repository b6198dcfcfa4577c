#!/usr/bin/env bash
# Fuzzes every parser that strangers' bytes reach: scripts/fuzz.sh [seconds for each] [target…]
# On the stable compiler, without cargo-fuzz; `cargo fuzz run <target>` works as well.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(envelope batch segment signature)
host=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}/fuzz

# What cargo-fuzz sets, but for the sanitizer of addresses, which needs a nightly compiler.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=4"
# With `--target`, build scripts are built without these flags.
cargo build --manifest-path fuzz/Cargo.toml --target-dir "$folder" --target "$host" --release

for target in "${targets[@]}"; do
    echo "fuzz: $target, $seconds s"
    found="$folder/corpus/$target"
    mkdir -p "$found" "$folder/artifacts"
    # What it finds goes to the target folder first; what adds something to the kept corpus is merged into it.
    "$folder/$host/release/$target" "$found" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=4096 \
        -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$folder/artifacts/$target-"
    [ -z "${KEEP:-}" ] || "$folder/$host/release/$target" -merge=1 -max_len=4096 "fuzz/corpus/$target" "$found" 2>/dev/null
done
