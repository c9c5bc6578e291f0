#!/bin/sh
# make-secrets.sh [FOLDER]: random secrets for docker/compose.yaml, one a file; those that are there stay as they are.
# The folder is for its owner only; the files are readable, as the processes of containers are other users than theirs.
set -eu

folder=${1:-$(dirname "$0")/../secrets}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

keep() { # NAME, value on standard input
  if [ -s "$1" ]; then cat > /dev/null; return; fi
  cat > "$1.new"
  chmod 444 "$1.new"
  mv "$1.new" "$1"
}
hex() { openssl rand -hex 24; }

hex | keep postgres-password
printf 'postgres://postgres:%s@postgres:5432/finegrain\n' "$(cat postgres-password)" | keep url-admin
for process in api worker runner; do
  printf 'postgres://fg_%s:%s@postgres:5432/finegrain\n' "$process" "$(hex)" | keep "url-$process"
done
hex | keep api-key
openssl rand -base64 32 | keep secret-key
hex | keep storage-access-key
hex | keep storage-secret-key
echo "The secrets are in $(pwd). The API's bootstrap key is in the file api-key."
