# One image for every command; `worker` is what it runs unless told otherwise.
FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/meterline
COPY pyproject.toml README.md LICENSE app.py settings.py ./
COPY schemas schemas
COPY tables tables
COPY streams streams
COPY transport transport
COPY sinks sinks
COPY web web
COPY local local
COPY cli cli
RUN /opt/meterline/bin/pip install . \
 && find /opt/meterline -name '*kernels.py' -exec touch -d 2026-01-01T00:00:00Z {} +

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home meterline
COPY --from=build /opt/meterline /opt/meterline
RUN install -d -o 10001 /opt/meterline/lib/python3.13/site-packages/schemas/__pycache__
WORKDIR /home/meterline
COPY meters.yaml ./
ENV PATH=/opt/meterline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    METERLINE_WEB_HOST=0.0.0.0 \
    METERLINE_WEB_PORT=6066 \
    NUMBA_CPU_NAME=generic
USER 10001
# Kernels are compiled once, for any processor; what was compiled is valid for as long as their files are as old as now,
# and a whole second is what every image format keeps.
RUN python -m streams.warming
EXPOSE 6066
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['METERLINE_WEB_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["worker"]
