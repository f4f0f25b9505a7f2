#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures every table of docs/results.md.
#
#   benchmarks/measure.sh PYTHON VALIDATION NANOTRACK [RESULTS]
#
# PYTHON: an interpreter with mlkd_ros, and opencv-contrib-python-headless in place of
# opencv-python-headless (for CSRT and KCF). VALIDATION: folder of <name>.mp4 and <name>.txt.
# NANOTRACK: folder of nanotrackv{2,3}_{backbone,head}.onnx. Results that are there are kept (in
# RESULTS, default results); those of other weights of ours are computed again.
set -eu
python=$1 validation=$2 nano=$3 results=${4:-results}
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
v2=$nano/nanotrackv2_backbone.onnx,$nano/nanotrackv2_head.onnx
v3=$nano/nanotrackv3_backbone.onnx,$nano/nanotrackv3_head.onnx
mlkd="$python -m mlkd_ros.cli"

# Accuracy: night-flights-v1, and the validation sequences by day and darkened.
$mlkd evaluate --dataset night-flights --results "$results" --per-sequence \
    --tracker ours --tracker csrt --tracker kcf --tracker mil \
    --tracker "opencv-nano=$v2" --tracker "nanotrack=$v3"
$mlkd evaluate --dataset pairs --root "$validation" --results "$results" --per-sequence \
    --condition day --condition street --condition dark \
    --tracker ours --tracker csrt --tracker kcf --tracker mil \
    --tracker "opencv-nano=$v2" --tracker "nanotrack=$v3"

$mlkd evaluate --dataset pairs --root "$validation" --results "$results" --per-sequence \
    --condition dusk --condition very_dark \
    --tracker ours --tracker kcf --tracker "opencv-nano=$v2" --tracker "nanotrack=$v3"

# How often a lost target is found again.
$python "$here/reacquisition.py" --jobs 2

# Time, and enhancers: the same frames, interleaved.
$python "$here/peers.py" --frames 30 --results "$results/peers" --nano-v2 "$v2" --nano-v3 "$v3" \
    --sequence crossing_1 --sequence low_light_1 --sequence distractors_1 --sequence scale_change_1 \
    --enhancer gamma

$mlkd report --force "$results/night-flights-v1" "$results/pairs" "$results/pairs-street" \
    "$results/pairs-dark" -o "$results/report.html"
$python "$here/score_speed.py" --minutes 10
