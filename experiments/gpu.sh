#!/bin/sh
# Measures one NVIDIA GPU: steps of this library and of SpikingJelly, and a short training. Meant to take under ten
# minutes, on a guess: five of benchmarks, the builds and rounds that were begun by then, and the training.
#
#   pip install -e '.[cuda,bench]' && pip install --no-deps 'spikingjelly>=2,<3'
#   sh experiments/gpu.sh           # records gpu-float32 and gpu-bfloat16; images/s and test accuracy on CIFAR-10
#   sh experiments/gpu.sh --tiny    # the same commands in small, on CPU, without records
#
# PYTHON names the interpreter, by default python. A benchmark leaves out what it has no time for, and says so; the
# training stops with a message where CIFAR-10 is neither there nor can be downloaded.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

case "${1-}" in
--tiny)
    export JAX_PLATFORMS=cpu
    benchmark="--quick"
    training="--dataset digits --student convnet --teacher convnet --width 0.1 --epochs 2"
    ;;
"")
    export JAX_PLATFORMS=cuda
    benchmark="--device gpu --libraries snnkd_jax spikingjelly spikingjelly-compile"
    benchmark="$benchmark --threads $(nproc) --rounds 3 --round-seconds 0.5 --minutes 2.5"
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
    "$python" experiments/benchmark.py $benchmark --dtype $dtype $record \
        --tasks train rate integer kd-rate inference || status=$?
    [ $status -le 1 ] || exit $status # 1: a library failed, which is printed and recorded
done

# shellcheck disable=SC2086
"$python" experiments/cifar_distill.py $training --dtype bfloat16 --preset kdsnn-response --no-baseline \
    --warmup-epochs 1 --v-reset None --no-decay-input --detach-reset --run-dir "$(mktemp -d)/run"
