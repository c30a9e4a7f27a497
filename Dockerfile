# One image for every part of Airflow; the target "demo" adds the needs of the stand-in application.
#
#   docker build --target cutover .     production
#   docker build --target demo .        for the profile "demo"
#
# The Python of BASE is the one that requirements.txt is locked for. UID is the user of all processes in it: that of the
# application's files, where these are mounted.
ARG BASE=python:3.11-slim-bookworm

# --- the packages in a layer of their own: installed again only when the lock changes ------------------------------------
FROM ${BASE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# An older pip refuses the lock: it takes an extra of a locked package for a package without a pin.
RUN python -m venv /opt/cutover && /opt/cutover/bin/pip install --quiet pip==26.0
COPY requirements.txt /tmp/
# Bytecode is compiled once, here: each of Airflow's task processes would otherwise spend seconds on it. compileall's
# status says only that some package ships a file for another Python.
RUN /opt/cutover/bin/pip install --quiet --no-compile --require-hashes -r /tmp/requirements.txt \
 && { /opt/cutover/bin/python -W ignore -m compileall -qq -j 0 /opt/cutover/lib || true; }

FROM packages AS demo-packages
COPY requirements-dev.txt /tmp/
# As locked there, without the other packages for developers.
RUN awk '/^(supervisor|aiosmtpd|atpublic)==/ {take = 1} take {print} !/\\$/ {take = 0}' /tmp/requirements-dev.txt >/tmp/demo.txt \
 && /opt/cutover/bin/pip install --quiet --require-hashes --no-deps --target /opt/demo -r /tmp/demo.txt

# --- the image -----------------------------------------------------------------------------------------------------------
FROM ${BASE} AS base
# pg_dump and psql: for the first backup of the target, and for the engineer on call.
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-client tini >/dev/null \
 && rm -rf /var/lib/apt/lists/*
ARG UID=1000
RUN useradd --uid ${UID} --user-group --home-dir /opt/airflow --create-home --shell /usr/sbin/nologin cutover \
 && install -d -o cutover -g cutover -m 750 \
    /opt/airflow/logs /var/lib/cutover/evidence /var/lib/cutover/backups /var/lib/cutover/second_copy /srv/ward-ops
WORKDIR /opt/project
ENV PATH=/opt/cutover/bin:$PATH PYTHONPATH=/opt/project PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GX_ANALYTICS_ENABLED=false AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/project/dags AIRFLOW__CORE__PLUGINS_FOLDER=/opt/project/plugins \
    AIRFLOW__LOGGING__BASE_LOG_FOLDER=/opt/airflow/logs \
    AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY=/opt/airflow/logs/dag_processor \
    CUTOVER_EVIDENCE=/var/lib/cutover/evidence
ENTRYPOINT ["tini", "--"]

FROM base AS cutover
COPY --from=packages /opt/cutover /opt/cutover
COPY plugins plugins
COPY dags dags
COPY include include
RUN python -m compileall -qq include
USER cutover
CMD ["python", "-m", "include.cutover", "--help"]

FROM cutover AS demo
USER root
COPY --from=demo-packages /opt/demo /opt/demo
COPY examples examples
RUN python -m compileall -qq examples && install -d -o cutover -g cutover /srv/received
ENV PYTHONPATH=/opt/project:/opt/demo
USER cutover
