#!/bin/sh
# prune-packages.sh NODE_MODULES: removes the programs of other platforms, the embedded Postgres (an image has its
# database elsewhere) and source maps, then loads what is left of the native packages. For Linux with glibc.
set -eu

modules=$1
arch=$(node -p process.arch)
test "$(node -p process.platform)" = linux

size() { du -sm "$modules" | cut -f1; }
before=$(size)

for folder in "$modules"/onnxruntime-node/bin/napi-v*/*/*; do
  case $folder in
    */linux/"$arch") ;;
    *) rm -rf "$folder" ;;
  esac
done
for file in "$modules"/tokenizers/tokenizers.*.node; do
  case $file in
    *".linux-$arch-gnu.node") ;;
    *) rm -f "$file" ;;
  esac
done
rm -rf "$modules"/@embedded-postgres "$modules"/typescript # the latter: an optional peer of cosmiconfig
find "$modules" -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete

# what was taken out by mistake must fail here, and not at the first request
(
  cd "$modules/.."
  node --input-type=module -e "
    import ort from 'onnxruntime-node';
    import { Tokenizer } from 'tokenizers';
    import '@swc/wasm-typescript';
    import 'esbuild';
    import 'es-module-lexer';
    if (!ort.InferenceSession || !Tokenizer) throw new Error('a native package is not whole');"
)
echo "node_modules: $before MB, $(size) MB after pruning"
