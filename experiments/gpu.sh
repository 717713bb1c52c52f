#!/bin/sh
# Measures one NVIDIA GPU: steps of this library and of SpikingJelly, and a short training. Meant to take under ten
# minutes, on a guess: five of benchmarks, the builds and rounds that were begun by then, and the training.
#
#   pip install -e '.[cuda,bench]' && pip install --no-deps 'spikingjelly>=2,<3'
#   sh experiments/gpu.sh           # records gpu-float32 and gpu-bfloat16; images/s and test accuracy on CIFAR-10
#   sh experiments/gpu.sh --tiny    # two of the tasks and the training in small, on CPU, without records
#
# PYTHON names the interpreter, as seen from the root of the repository, by default python. A benchmark leaves out what it
# has no time for, and says so; the training stops with a message where CIFAR-10 is neither there nor can be downloaded.
# The exit status is 3 if a library failed, which is printed and recorded.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

case "${1-}" in
--tiny)
    export JAX_PLATFORMS=cpu
    benchmark="--quick --threads 1 --libraries snnkd_jax --tasks integer inference"
    training="--dataset digits --student convnet --teacher convnet --width 0.1 --epochs 2"
    ;;
"")
    export JAX_PLATFORMS=cuda
    benchmark="--device gpu --libraries snnkd_jax spikingjelly spikingjelly-compile"
    benchmark="$benchmark --tasks train rate integer kd-rate inference --rounds 3 --round-seconds 0.5 --minutes 2.5"
    benchmark="$benchmark --threads $(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)"
    training="--dataset cifar10 --student resnet18 --teacher resnet18 --epochs 3"
    training="$training --batch-size 512 --base-batch-size 128" # a guess of what fills one GPU
    ;;
*)
    echo "error: $1 is unknown; give --tiny, or nothing" >&2
    exit 2
    ;;
esac

for dtype in float32 bfloat16; do
    record=""
    [ "${1-}" = --tiny ] || record="--record gpu-$dtype"
    status=0
    # shellcheck disable=SC2086 # lists of options
    "$python" experiments/benchmark.py $benchmark --dtype $dtype $record || status=$?
    case $status in
    0) ;;
    3) failed=3 ;;
    *) exit $status ;;
    esac
done

# shellcheck disable=SC2086
"$python" experiments/cifar_distill.py $training --dtype bfloat16 --preset kdsnn-response --no-baseline \
    --warmup-epochs 1 --v-reset None --no-decay-input --detach-reset --run-dir "$work/run"
exit $failed
