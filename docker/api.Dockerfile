# The API; with another command the worker, and the migrations. Built from the root of the repository:
#   docker build -f docker/api.Dockerfile -t finegrain-api .
# How the digests are renewed: docs/containers.md.
FROM node:24.21.0-bookworm-slim@sha256:0e0ff40c39bc087845bfb27465a0df4ea419520094bc35842ff83dd8cbe6f9b6 AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY docker/scripts/install-packages.sh docker/scripts/prune-packages.sh docker/scripts/
RUN docker/scripts/install-packages.sh

FROM debian:bookworm-20260918-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
COPY docker/scripts/install-system.sh /tmp/
RUN /tmp/install-system.sh && rm /tmp/install-system.sh
COPY --from=packages /usr/local/bin/node /usr/local/bin/node
WORKDIR /app
COPY --from=packages /app/node_modules node_modules
COPY package.json LICENSE ./
COPY docker/scripts/entrypoint.sh docker/scripts/healthy.mjs docker/scripts/keep-compiled.sh docker/scripts/
COPY migrations migrations
COPY models models
COPY runners/requirements.lock runners/
COPY src src
RUN node src/build.mjs
ENV NODE_ENV=production \
    NODE_COMPILE_CACHE=/app/compile-cache \
    FINEGRAIN_DATA_DIR=/var/lib/finegrain
RUN docker/scripts/keep-compiled.sh
USER 10001:10001
VOLUME /var/lib/finegrain
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
  CMD ["node", "/app/docker/scripts/healthy.mjs", "api"]
ENTRYPOINT ["/app/docker/scripts/entrypoint.sh"]
CMD ["node", "dist/src/main-api.js"]
