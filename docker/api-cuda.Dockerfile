# The API and the worker as in api.Dockerfile, which score on one NVIDIA GPU what a GPU can score (docs/adr/0029). Built from
# the root of the repository, and started with GPUs:
#   docker build -f docker/api-cuda.Dockerfile -t finegrain-api-cuda .
# ONNX Runtime's package for Node has a CUDA provider for CUDA 12 and cuDNN 9 only, which its installation downloads from NuGet.
FROM node:24.21.0-bookworm-slim@sha256:0e0ff40c39bc087845bfb27465a0df4ea419520094bc35842ff83dd8cbe6f9b6 AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY docker/scripts/install-packages.sh docker/scripts/prune-packages.sh docker/scripts/
ENV ONNXRUNTIME_NODE_INSTALL=cuda12
RUN docker/scripts/install-packages.sh \
 && ls node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so

FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04@sha256:8aef630a54bc5c5146ae5ce68e6af5caa3df0fb690bb91544175c91f307e4356
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
    FINEGRAIN_DATA_DIR=/var/lib/finegrain \
    FINEGRAIN_SCORING_PROVIDER=cuda \
    FINEGRAIN_SCORERS=1
RUN docker/scripts/keep-compiled.sh
USER 10001:10001
VOLUME /var/lib/finegrain
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
  CMD ["node", "/app/docker/scripts/healthy.mjs", "api"]
ENTRYPOINT ["/app/docker/scripts/entrypoint.sh"]
CMD ["node", "dist/src/main-api.js"]
