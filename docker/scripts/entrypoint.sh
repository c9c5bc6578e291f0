#!/bin/sh
# Starts a process of an image. A secret may be given as a file: NAME_FILE=/run/secrets/x stands for NAME=<what is in it>.
set -eu

for name in DATABASE_URL DATABASE_DIRECT_URL FINEGRAIN_API_KEY FINEGRAIN_SECRET_KEY FINEGRAIN_SECRET_KEY_PREVIOUS \
  FINEGRAIN_METRICS_KEY AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN; do
  eval "file=\${${name}_FILE:-}"
  if [ -n "$file" ]; then
    if ! [ -r "$file" ]; then
      echo "${name}_FILE names $file, which user $(id -u) cannot read." >&2
      exit 1
    fi
    value=$(cat "$file")
    export "$name=$value"
    unset "${name}_FILE"
  fi
done
exec "$@"
