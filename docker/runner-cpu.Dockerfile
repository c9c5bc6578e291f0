# A runner on CPU. Built from the root of the repository; TORCH_INDEX_URL is the index of PyTorch's CPU builds, which its
# installation page names (without it pip would bring CUDA, and the build stops):
#   docker build -f docker/runner-cpu.Dockerfile --build-arg TORCH_INDEX_URL=… -t finegrain-runner-cpu .
FROM node:24.21.0-bookworm-slim@sha256:0e0ff40c39bc087845bfb27465a0df4ea419520094bc35842ff83dd8cbe6f9b6 AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY docker/scripts/install-packages.sh docker/scripts/prune-packages.sh docker/scripts/
RUN docker/scripts/install-packages.sh

FROM debian:bookworm-20260918-slim@sha256:3783cc01769c7b2b1b83a5c5ad96c815348e28ed7da68e2e3687004faa906251
COPY docker/scripts/install-system.sh docker/scripts/install-python.sh /app/docker/scripts/
WORKDIR /app
RUN docker/scripts/install-system.sh ca-certificates python3 python3-venv tini
ARG TORCH_INDEX_URL
COPY runners/requirements.lock runners/
RUN TORCH_INDEX_URL=$TORCH_INDEX_URL docker/scripts/install-python.sh cpu /opt/python runners/requirements.lock
COPY --from=packages /usr/local/bin/node /usr/local/bin/node
COPY --from=packages /app/node_modules node_modules
COPY package.json LICENSE ./
COPY docker/scripts/entrypoint.sh docker/scripts/healthy.mjs docker/scripts/
COPY runners/finegrain_trainer runners/finegrain_trainer
RUN /opt/python/bin/python -m compileall -q runners/finegrain_trainer
COPY src src
RUN node src/build.mjs
ENV NODE_ENV=production \
    FINEGRAIN_DATA_DIR=/var/lib/finegrain \
    FINEGRAIN_PYTHON=/opt/python/bin/python \
    FINEGRAIN_RUNNER_HARDWARE=cpu \
    HOME=/var/lib/finegrain \
    HF_HOME=/var/lib/finegrain/huggingface
USER 10001:10001
VOLUME /var/lib/finegrain
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
  CMD ["node", "/app/docker/scripts/healthy.mjs", "runner"]
# tini ends what a trainer leaves behind; the runner itself waits for its trainer's checkpoint
ENTRYPOINT ["/usr/bin/tini", "--", "/app/docker/scripts/entrypoint.sh"]
CMD ["node", "dist/src/main-runner.js"]
