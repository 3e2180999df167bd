#!/usr/bin/env bash
# First contact with a GPU, in ten minutes at most: what runs, how exact, how fast, with all results in one folder.
#
#     benchmarks/gpu_first_contact.sh FOLDER              on one GPU
#     benchmarks/gpu_first_contact.sh --rehearse FOLDER   without one: Triton's interpreter, the CPU, tiny sizes
#     benchmarks/gpu_first_contact.sh --list [--rehearse] the command lines; runs none
#
# A part that fails, or takes longer than its limit, is told in FOLDER/summary.md, and the next one begins.
# Exit status: 0, 1 where a part failed, 2 for wrong arguments.
set -uo pipefail

rehearse='' list='' folder=''
for argument; do
  case $argument in
    --rehearse) rehearse=yes ;;
    --list) list=yes ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "error: unknown option $argument (see $0 --help)" >&2; exit 2 ;;
    *) folder=$argument ;;
  esac
done
[ -n "$list" ] && folder=FOLDER
[ -n "$folder" ] || { echo "error: say into which folder the results go (see $0 --help)" >&2; exit 2; }

cd "$(dirname "$0")/.." || exit 2
if [ -z "$list" ]; then
  mkdir -p "$folder" && folder=$(cd "$folder" && pwd) || exit 2
  export TQDM_DISABLE=1
fi
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
failed=0

# part NAME SECONDS [VARIABLE=VALUE] COMMAND...: run it with a time limit; its output goes to FOLDER/NAME.log.
part() {
  local name=$1 limit=$2 began=$SECONDS status outcome=done
  shift 2
  if [ -n "$list" ]; then
    printf '%q ' "$@"
    echo
    return
  fi
  echo "$name ..."
  timeout --kill-after=10 "$limit" env "$@" > "$folder/$name.log" 2>&1
  status=$?
  case $status in
    0) ;;
    124 | 137) outcome="stopped after $limit s" ;;
    *) outcome="failed with status $status: $(tail -n 1 "$folder/$name.log" | cut -c 1-200 | tr '|' '/')" ;;
  esac
  [ "$outcome" = done ] || failed=1
  echo "| [$name]($name.log) | $((SECONDS - began)) | $outcome |" >> "$folder/summary.md"
}

if [ -z "$list" ]; then
  {
    echo "# First contact${rehearse:+, rehearsed without a GPU}"
    echo
    echo "Exactness and speed: check.md. Attention and training steps: benchmarks/results/. Conformance: its logs."
    echo
    echo "| part | seconds | outcome |"
    echo "| --- | --- | --- |"
  } > "$folder/summary.md"
fi

# Two that are asked for most, and a mechanism of each form, but for the one that is plain PyTorch.
forms=(swat softpick $("$python" -c 'from attention.check import of_each_form
print(*(name for form, name in of_each_form().items() if form.__name__ != "Chunked"))'))
if [ -n "$rehearse" ]; then
  part check 200 TRITON_INTERPRET=1 "$python" -m attention.check --device cpu --mechanism swat --dtype float16 \
    --lengths 16 --write "$folder/check.md"
  for dtype in float16 float32; do
    part "conformance-$dtype" 100 "$python" -m attention.conformance --device cpu --kernel tiled \
      --mechanism swat lssar --check "$dtype" "one key"
  done
  part attention 100 "$python" -m benchmarks.bench_attention --shapes 1x64 --dtype float32 --mechanisms softpick \
    --kernels auto flash --heads 2 --head-dim 16 --rounds 1 --no-memory --write "$folder"
  part training 300 "$python" -m benchmarks.bench_train --models nano --mechanisms softpick --precision fp32 \
    --batch 1 --length 16 --steps 1 --write "$folder"
else
  part check 120 "$python" -m attention.check --device cuda --write "$folder/check.md"
  for dtype in float16 bfloat16 float32; do
    part "conformance-$dtype" 60 "$python" -m attention.conformance --device cuda --kernel triton flex flash \
      --mechanism "${forms[@]}" --check "$dtype" "grouped heads" documents decode
  done
  part attention 140 "$python" -m benchmarks.bench_attention --shapes 4x1024 1x4096 --dtype bfloat16 float32 \
    --mechanisms softmax softpick sigmoid lssar entmax15 --kernels auto flash flex --rounds 5 --no-memory \
    --write "$folder"
  part training 140 "$python" -m benchmarks.bench_train --models 60m --mechanisms softmax softpick lssar \
    --precision bf16 --batch 16 --length 1024 --steps 10 --compile --write "$folder"
fi

[ -n "$list" ] && exit 0
cat "$folder/summary.md"
exit "$failed"
