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
RUN /opt/meterline/bin/pip install .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --create-home meterline
COPY --from=build /opt/meterline /opt/meterline
WORKDIR /home/meterline
COPY meters.yaml ./
ENV PATH=/opt/meterline/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    METERLINE_WEB_HOST=0.0.0.0 \
    METERLINE_WEB_PORT=6066
USER 10001
EXPOSE 6066
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['METERLINE_WEB_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "app"]
CMD ["worker"]
