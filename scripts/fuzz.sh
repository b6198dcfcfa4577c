#!/usr/bin/env bash
# Fuzzes every parser that strangers' bytes reach: scripts/fuzz.sh [seconds for each] [target…]
# On the stable compiler, without cargo-fuzz; `cargo fuzz run <target>` works as well.
set -euo pipefail
cd "$(dirname "$0")/.."

all=(envelope batch segment form signature json)
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=("${all[@]}")
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "fuzz: '$seconds' is no number of seconds" >&2; exit 2; }
for target in "${targets[@]}"; do
    [ -f "fuzz/fuzz_targets/$target.rs" ] || { echo "fuzz: there is no target '$target', but: ${all[*]}" >&2; exit 2; }
done
host=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}/fuzz

# What cargo-fuzz sets, but for the sanitizer of addresses, which needs a nightly compiler.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=4"
echo "fuzz: building (the first time takes some minutes)"
# With `--target`, build scripts are built without these flags.
cargo build --manifest-path fuzz/Cargo.toml --target-dir "$folder" --target "$host" --release

mkdir -p "$folder/artifacts"
running=
trap '[ -z "$running" ] || kill "$running" 2>/dev/null || true' EXIT
for place in "${!targets[@]}"; do
    target=${targets[$place]}
    program="$folder/$host/release/$target"
    # What it finds goes to the target folder first; what adds something to the kept corpus is merged into it.
    found="$folder/corpus/$target"
    log="$folder/$target.log"
    mkdir -p "$found"
    echo "fuzz: $target ($((place + 1)) of ${#targets[@]}), $seconds s"
    "$program" "$found" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=4096 \
        -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$folder/artifacts/$target-" >"$log" 2>&1 &
    running=$!
    elapsed=0
    while kill -0 "$running" 2>/dev/null; do
        sleep 1
        elapsed=$((elapsed + 1))
        [ $((elapsed % 10)) != 0 ] || [ "$elapsed" -ge "$seconds" ] \
            || echo "  $elapsed of $seconds s: $(grep -o 'cov: .*' "$log" | tail -1)"
    done
    if ! wait "$running"; then
        running=
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -1)
        {
            grep -hE 'a promise is broken|panicked at|ERROR: ' "$log" || tail -20 "$log"
            echo "fuzz: $target found a fault; all it said is in $log"
            [ -z "$input" ] || echo "next: $program $input   # again, on this input alone; keep it as fuzz/corpus/$target/<name> beside the fix"
        } >&2
        exit 1
    fi
    running=
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "  ok: $runs runs, $(find "$found" -type f | wc -l) inputs in $found"
    if [ -n "${KEEP:-}" ]; then
        before=$(find "fuzz/corpus/$target" -type f | wc -l)
        "$program" -merge=1 -max_len=4096 "fuzz/corpus/$target" "$found" >>"$log" 2>&1
        echo "  kept $(($(find "fuzz/corpus/$target" -type f | wc -l) - before)) new inputs in fuzz/corpus/$target"
    fi
done
echo "fuzz: nothing found by ${targets[*]}"
if [ -n "${KEEP:-}" ]; then
    echo "next: git add fuzz/corpus   # cargo test walks it from now on"
else
    echo "next: KEEP=1 scripts/fuzz.sh $seconds ${targets[*]}   # adds what reaches new code to fuzz/corpus"
fi
