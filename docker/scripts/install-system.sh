#!/bin/sh
# install-system.sh [PACKAGE…]: Debian packages for an image, and the user that its process runs as.
set -eu

if [ $# -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null
  rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
fi
groupadd --gid 10001 finegrain
useradd --uid 10001 --gid 10001 --home-dir /var/lib/finegrain --no-create-home --shell /usr/sbin/nologin finegrain
install -d -o finegrain -g finegrain -m 0750 /var/lib/finegrain
