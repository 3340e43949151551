# The hub as an image; docs/deploy.md says how to run it. Its data is in /data, all else may be read-only.
FROM node:22-slim AS charts
WORKDIR /charts
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund --omit=dev

FROM python:3.13-slim AS dependencies
WORKDIR /opt/homelab
COPY requirements.txt ./
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data homelab && install -d -o homelab -m 700 /data
WORKDIR /opt/homelab
COPY . .
COPY --from=dependencies /opt/homelab/.venv .venv
COPY --from=charts /charts/node_modules/uplot/dist/uPlot.iife.min.js /charts/node_modules/uplot/dist/uPlot.min.css static/vendor/
ENV HOMELAB_DATA_DIR=/data HOMELAB_BIND=0.0.0.0:8000 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD [".venv/bin/python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/api/v1/system/health', timeout=5)"]
# Without its own agent: in a container it would count the container's interfaces, not the machine's.
CMD [".venv/bin/python", "manage.py", "serve", "--no-agent"]
