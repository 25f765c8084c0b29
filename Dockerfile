# JobQuest's event service. Build: `docker build -t jobquest-events:1 .`
#
# The base is pinned to a version. To pin its very bytes, add the digest that `docker buildx
# imagetools inspect python:3.11.14-slim-bookworm` prints: `FROM python:3.11.14-slim-bookworm@sha256:…`.
#
# The service listens on loopback, so a published port does not reach it: run the proxy in the same
# network namespace, as docker-compose.cluster.yml does. Or set HOST=0.0.0.0 on a network that only
# the proxy uses; it starts there as soon as there is an operator or a key. The first one:
#   docker run --rm -it -v jobquest:/data --entrypoint flask jobquest-events:1 \
#     operators add ada --role operator
FROM python:3.11.14-slim-bookworm AS packages
COPY requirements.txt constraints.txt /tmp/
# Into an environment of their own: the next stage takes that and nothing else.
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir -r /tmp/requirements.txt

FROM python:3.11.14-slim-bookworm
# No __pycache__ at run time: the root file system may be read-only. What the build compiles is used.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    JOBQUEST_DATA_DIR=/data
# A fixed number, so that volumes keep their owner and a cluster can check that it is not root.
RUN groupadd --gid 10001 jobquest \
    && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin jobquest \
    && install --directory --owner=10001 --group=10001 /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY app.py ./
COPY jobquest jobquest
COPY static static
COPY templates templates
RUN ["python", "-m", "compileall", "-q", "app.py", "jobquest"]
USER 10001:10001
# The outbox, which must outlive the container, and without DATABASE_URL the read side.
VOLUME /data
# It answers while Kafka is away too: then the outbox takes events. /readyz says whether all works.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 5000), timeout=3); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
# Takes at most 5 s. As process 1 it handles the signal and reaps its children by itself.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "app.py"]
