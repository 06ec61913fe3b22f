# The server or a client of a federation. Not built here: the machine that this was written on has no Docker daemon.
#
#   docker build -t wordflock .
#   docker buildx build --platform linux/amd64,linux/arm64 -t wordflock .
#   docker run -p 8000:8000 -v "$PWD/tls:/tls:ro" -v wordflock-runs:/home/wordflock/runs wordflock \
#       server --listen 0.0.0.0:8000 --certificates /tls --rounds 10 --min-clients 2
#   docker run -v "$PWD/recordings:/recordings:ro" -v "$PWD/ca.crt:/ca.crt:ro" wordflock \
#       client --server-address HOST:8000 --ca /ca.crt --data /recordings
#
# EXTRA chooses what is installed. TORCH is a version whose arm64 wheel needs no CUDA packages.
FROM python:3.13-slim AS build
ARG EXTRA=train
ARG TORCH="torch<2.11"
RUN python -m venv /opt/wordflock
COPY . /source
RUN echo "${TORCH}" > /constraints.txt \
    && /opt/wordflock/bin/pip install --no-cache-dir --constraint /constraints.txt "/source[${EXTRA}]"

FROM python:3.13-slim
COPY --from=build /opt/wordflock /opt/wordflock
RUN useradd --create-home --uid 1000 wordflock
USER wordflock
WORKDIR /home/wordflock
RUN mkdir -p -m 700 runs .cache/wordflock
VOLUME ["/home/wordflock/runs", "/home/wordflock/.cache/wordflock"]
EXPOSE 8000
ENTRYPOINT ["/opt/wordflock/bin/wordflock"]
CMD ["--help"]
