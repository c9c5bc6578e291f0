#!/bin/sh
# Installs the npm packages that a process needs, in the current folder, and takes out what this platform cannot use.
# The folder holds package.json, package-lock.json and .npmrc. The packages of package-lock.json and no others.
set -eu

npm ci --omit=dev --no-audit --no-fund --loglevel=error
"$(dirname "$0")/prune-packages.sh" node_modules
