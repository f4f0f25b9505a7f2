#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything a GPU machine is needed for, in one command: both students through both stages, with the windows of one
# packed file, then benchmarks/cuda.py. Before, where the data is:
#   mlkd pack CACHE -o inputs/real.pack --limit 36; mlkd pack CACHE/flights -o inputs/flights.pack --limit 8
#   mlkd average BEFORE.safetensors nanotrackv3.pth -o inputs/average.safetensors; cp -r lightfc inputs/
# There, from the root of a checkout (PyTorch, NumPy, OpenCV, and the wheels of safetensors, PyYAML, tqdm, onnx):
#   config/training/gpu.sh inputs OUT [KEY=VALUE ...]
# KEY=VALUE are --set of all runs. DEVICE, WORKERS and STEPS_* (below) are environment variables. A killed run goes on
# where it was by the same command. Afterwards, where the validation sequences are: `mlkd select OUT/*_room ...`.
set -euo pipefail
inputs=$1 out=$2
shift 2
sets=()
for one in "$@"; do sets+=(--set "$one"); done
device=${DEVICE:-cuda} workers=${WORKERS:-$(($(nproc) - 1))} python=${PYTHON:-python3}
mlkd() { "$python" -m mlkd_ros.cli "$@"; }

mkdir -p "$out/work"
for part in real flights; do
  folder=$out/work/cache
  [ $part = real ] || folder=$out/work/cache/flights
  mlkd unpack "$inputs/$part.pack" "$folder"
done
common=(--data packed --cache "$out/work/cache" --flights 40 --enhancer identity --device "$device" --workers "$workers")
train() { # STUDENT STEPS_SINGLE STEPS_ROOM START TEACHER...
  local name=$1 single=$2 room=$3 start=$4 room_file=config/training/$1_room.yaml
  shift 4
  [ -f "$room_file" ] || room_file=config/training/$name.yaml
  mlkd train student --config "config/training/$name.yaml" "${common[@]}" --crl spatial --start "$start" --teacher "$@" \
    --run "$out/$name" --set "steps=$single" --set snapshot_every=0 "${sets[@]}"
  mlkd train room --config "$room_file" "${common[@]}" --start "$out/$name/student.safetensors" --teacher "$@" \
    --run "$out/${name}_room" --set "steps=$room" "${sets[@]}"
}
train fast "${STEPS_FAST:-31250}" "${STEPS_FAST_ROOM:-4000}" "$inputs/average.safetensors" \
  "$inputs/average.safetensors" "$inputs/lightfc"
train accurate "${STEPS_ACCURATE:-20000}" "${STEPS_ACCURATE_ROOM:-3000}" "$inputs/lightfc" "$inputs/lightfc"
"$python" benchmarks/cuda.py --device "$device" --training ${QUICK:+--quick} \
  "$out"/fast_room/student_*.safetensors "$out"/accurate_room/student_*.safetensors
