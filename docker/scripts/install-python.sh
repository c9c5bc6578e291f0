#!/bin/sh
# install-python.sh cpu|cuda FOLDER LOCK [CONSTRAINTS]: makes FOLDER a Python environment with what the trainer needs.
# The two differ in two wheels: `cpu` takes torch from TORCH_INDEX_URL (the index of PyTorch's CPU builds, which its
# installation page names; without it, from where pip is configured to look); `cuda` takes the build with CUDA, which is
# the default for Linux, and ONNX Runtime with its CUDA provider; CONSTRAINTS pins what the two bring along.
# PYTHON names the interpreter: python3.
set -eu

flavour=$1 folder=$2 lock=$3 constraints=${4:-}
case $flavour in
  cpu | cuda) ;;
  *) echo "The first argument must be cpu or cuda, not $flavour." >&2; exit 2 ;;
esac

# the lock without the tools of the tests; pip takes the build of torch from one index and everything else from another
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
grep -vE '^(pytest|ruff|iniconfig|pluggy)==' "$lock" > "$wanted"
torch=$(grep -E '^torch==' "$wanted")
if [ "$flavour" = cuda ]; then
  sed -i 's/^onnxruntime==/onnxruntime-gpu==/' "$wanted"
fi

"${PYTHON:-python3}" -m venv "$folder"
pip() {
  "$folder/bin/python" -m pip "$@" --disable-pip-version-check --no-input --no-cache-dir --progress-bar=off -q
}
if [ "$flavour" = cpu ] && [ -n "${TORCH_INDEX_URL:-}" ]; then
  pip install --index-url "$TORCH_INDEX_URL" "$torch"
fi
# shellcheck disable=SC2086  # options are words
pip install ${INSTALL_OPTIONS:-} -r "$wanted" ${constraints:+-c "$constraints"}
if [ -n "${INSTALL_OPTIONS:-}" ]; then exit; fi # such as --dry-run, to see what would be installed

"$folder/bin/python" -m pip check --disable-pip-version-check
"$folder/bin/python" - "$flavour" <<'PYTHON'
import sys

import onnxruntime
import torch

flavour = sys.argv[1]
providers = onnxruntime.get_available_providers()
print(f"torch {torch.__version__} (CUDA {torch.version.cuda}), ONNX Runtime {onnxruntime.__version__} with {providers}")
if flavour == "cuda" and (torch.version.cuda is None or "CUDAExecutionProvider" not in providers):
    sys.exit("The CUDA flavour needs builds with CUDA.")
if flavour == "cpu" and torch.version.cuda is not None:
    sys.exit("This torch brings CUDA, which is gigabytes: set TORCH_INDEX_URL to the index of PyTorch's CPU builds.")
PYTHON
