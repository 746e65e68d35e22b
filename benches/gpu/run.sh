#!/usr/bin/env bash
# The GPU queue: everything that needs a GPU, in one go and under ten minutes, without a network.
#
#   benches/gpu/run.sh [--short] [--wheels FOLDER] [build] [tests] [sanitize] [bench]      (no stage: all)
#
# Needs nvcc (12.4 or later), cmake, ninja, a Python with torch (2.6 or later), pybind11, numpy, pytest, hypothesis and scipy, and for
# `sanitize` compute-sanitizer. --wheels installs every wheel of a folder for the run (memeff and inf-cl, to compare with). Every stage
# has a time limit and goes on where the one before it failed. Results: benches/results/DEVICE-DATE.json, a summary on the terminal,
# logs in build/gpu; with OUT set, copies of all of it there. Exit code 1 if any stage failed.
#
# PYTHON: the interpreter (python3). B2M_QUEUE_SECONDS: for everything (570). B2M_QUEUE_WORK: where to build (build/gpu).
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
work=${B2M_QUEUE_WORK:-$root/build/gpu}
python=${PYTHON:-python3}
export PATH="$PATH:/usr/local/cuda/bin"
export PYTHONPATH="$work/stage:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

need() {
  command -v "$1" >/dev/null || { printf '%s was not found\n' "$1"; return 1; }
}
need_device() {
  "$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch finds no CUDA device")'
}
need_built() {
  [[ -x $work/cmake/cuda_smoke && -d $work/stage ]] || { printf 'nothing is built: the stage "build" comes first\n'; return 1; }
}

# ----------------------------------------------------------------------------------------------------------------------
# Stages. Each is run by itself, under `timeout`.
# ----------------------------------------------------------------------------------------------------------------------
stage_build() {
  need nvcc && need cmake && need ninja || return 1
  nvcc --version | tail -n 2
  cmake -G Ninja -S . -B "$work/cmake" --log-level=STATUS -DCMAKE_BUILD_TYPE=Release -DB2M_CUDA=ON -DB2M_BUILD_TESTS=ON \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DCMAKE_CUDA_COMPILER_LAUNCHER="$root/.ci/keep_log" || return 1
  cmake --build "$work/cmake" --parallel || return 1
  .ci/stage "$work/cmake" "$work/stage" || return 1
  cd "$work" && "$python" -c 'from b2m_fast import _C; print(_C.__file__, _C.build_info())'
}

stage_tests() {
  need_built && need_device || return 1
  local code=0 workers=()
  "$python" -c 'import xdist' 2>/dev/null && workers=(-n 6)
  for loop in "" ampere; do
    printf '== cuda_smoke, main loop %s\n' "${loop:-of the device}"
    run_smoke "$loop" timeout 60 || code=1
  done
  cd "$work" || return 1
  # Warnings are errors in CI, where the versions are pinned; not here.
  "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" "$root/python_tests" -m cuda -q --no-showlocals --tb=short \
    --maxfail=60 -p no:cacheprovider -W default "${workers[@]}" || code=1
  return $code
}

# run_smoke LOOP COMMAND...: the smoke program under a command, with a main loop.
run_smoke() {
  local loop=$1 arguments=()
  shift
  [[ " $* " == *" initcheck "* ]] && arguments=(--raw)
  env ${loop:+B2M_CUDA_LOOP=$loop} "$@" "$work/cmake/cuda_smoke" "${arguments[@]}"
}

stage_sanitize() {
  need compute-sanitizer && need_built && need_device || return 1
  local code=0 pids=() names=() limit=$((${STAGE_SECONDS:-120} - 10))
  for loop in "" ampere; do
    for tool in memcheck racecheck synccheck initcheck; do
      name=$tool-${loop:-default}
      run_smoke "$loop" timeout "$limit" compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
        >"$work/logs/sanitize-$name.log" 2>&1 &
      pids+=($!) names+=("$name")
    done
  done
  for index in "${!pids[@]}"; do
    wait "${pids[$index]}"
    local status=$? log=$work/logs/sanitize-${names[$index]}.log
    printf '%s: exit %s, %s\n' "${names[$index]}" "$status" "$(grep -h 'SUMMARY' "$log" | tail -n 1 || true)"
    if [[ $status != 0 ]]; then
      code=1
      grep -vE '^========= *(Host Frame|$)' "$log" | head -n 12
    fi
  done
  return $code
}

stage_bench() {
  need_built && need_device || return 1
  "$python" benches/gpu/measure.py --out "$work/records.jsonl" --seconds $((${STAGE_SECONDS:-240} - 15)) ${SHORT:+--short}
}

if [[ ${1:-} == --stage ]]; then
  "stage_$2"
  exit
fi

# ----------------------------------------------------------------------------------------------------------------------
# The queue
# ----------------------------------------------------------------------------------------------------------------------
declare -A limits=([build]=240 [tests]=180 [sanitize]=110 [bench]=250)
stages=() wheels=
while (($#)); do
  case $1 in
    --short) export SHORT=1 ;;
    --wheels) wheels=$(cd "$2" && pwd) || exit 2; shift ;;
    build | tests | sanitize | bench) stages+=("$1") ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
  esac
  shift
done
((${#stages[@]})) || stages=(build tests sanitize bench)

total=${B2M_QUEUE_SECONDS:-570}
rm -rf "$work/logs" "$work/status" "$work/records.jsonl"
mkdir -p "$work/logs" "$work/status"
if [[ -n $wheels ]]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$work/site" "$wheels"/*.whl
fi

failed=0
for position in "${!stages[@]}"; do
  stage=${stages[$position]}
  left=$((total - SECONDS - 15)) # the summary needs a few seconds
  limit=${limits[$stage]}
  ((position == ${#stages[@]} - 1 && ${#stages[@]} > 1 || ${#stages[@]} == 1)) && limit=$left # the last takes what is left
  ((limit > left)) && limit=$left
  printf '==> %s (at most %s s)\n' "$stage" "$limit"
  begin=$SECONDS
  if ((limit < 10)); then
    printf 'no time was left\n' >"$work/logs/$stage.log"
    code=124
  else
    STAGE_SECONDS=$limit timeout --kill-after=10 "$limit" "${BASH_SOURCE[0]}" --stage "$stage" >"$work/logs/$stage.log" 2>&1
    code=$?
  fi
  printf '%s %s\n' "$code" "$((SECONDS - begin))" >"$work/status/$stage"
  if ((code)); then
    failed=1
    printf '    failed (exit code %s): %s\n' "$code" "$(tail -n 1 "$work/logs/$stage.log")"
  fi
done

"$python" benches/gpu/summary.py --work "$work" --results benches/results | tee "$work/logs/summary.txt"
((PIPESTATUS[0])) && failed=1
if [[ -n ${OUT:-} ]]; then
  cp "$work"/logs/{build,tests,sanitize,bench}.log "$work/logs/summary.txt" "$work"/*.json "$OUT" 2>/dev/null
fi
exit $failed
